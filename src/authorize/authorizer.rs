//! Authorizers, put together.

use std::{fmt, rc::Rc};

use super::{Authorize, Identity};
use crate::{Reason, Rejection, Request, registry::LocalBoxFuture};

/// An [`Authorize`] of any kind, to be shared by the routes of a core.
#[derive(Clone)]
pub struct Authorizer(Rc<dyn Authorizes>);

/// [`Authorize`], so that a list can hold any of them.
trait Authorizes {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<Identity, Rejection>>;
}

impl<A: Authorize> Authorizes for A {
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<Identity, Rejection>> {
        Box::pin(Authorize::authorize(self, request))
    }
}

impl Authorizer {
    /// Holds `authorize`.
    pub fn new(authorize: impl Authorize) -> Self {
        Self(Rc::new(authorize))
    }

    /// The first that knows who asks, decides. If none does, the answer is the weightiest of theirs: that it cannot be
    /// decided, that it is forbidden, that credentials are missing, with the challenges of all.
    ///
    /// # Panics
    /// If there are none.
    pub fn any_of(authorizers: impl IntoIterator<Item = Self>) -> Self {
        let all = Vec::from_iter(authorizers);
        assert!(!all.is_empty(), "one of none is nobody");
        Self::new(AnyOf(all))
    }

    /// Each has to know who asks; they are asked in their order, and the first refusal is the answer.
    ///
    /// # Panics
    /// If there are none.
    pub fn all_of(authorizers: impl IntoIterator<Item = Self>) -> Self {
        let all = Vec::from_iter(authorizers);
        assert!(!all.is_empty(), "all of none is everybody");
        Self::new(AllOf(all))
    }

    /// Of those that it knows, only those of whom `may` is true; others get 403.
    pub fn only(self, may: impl Fn(&Identity) -> bool + 'static) -> Self {
        Self::new(Only { of: self, may })
    }

    /// As [`Authorize::authorize`]; what is found stays with the request.
    pub(crate) async fn admit(&self, request: &Request<'_>) -> Result<(), Rejection> {
        let identity = Authorize::authorize(self, request).await?;
        tracing::debug!(
            by = identity.by(),
            subject = identity.subject(),
            path = request.path(),
            "authorized"
        );
        request.identify(identity);
        Ok(())
    }
}

impl Authorize for Authorizer {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        // Its own box must not be boxed again.
        let inner: &dyn Authorizes = &*self.0;
        inner.authorize(request).await
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

struct AnyOf(Vec<Authorizer>);

impl Authorize for AnyOf {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let mut refusals = Vec::new();
        for authorizer in &self.0 {
            match Authorize::authorize(authorizer, request).await {
                Ok(identity) => return Ok(identity),
                Err(rejection) => refusals.push(rejection),
            }
        }
        Err(weightiest(refusals))
    }
}

/// What is answered where everybody refuses.
fn weightiest(refusals: Vec<Rejection>) -> Rejection {
    let weight = |rejection: &Rejection| match rejection.status() {
        500.. => 4,
        403 => 3,
        // Credentials that are no good say more than none.
        401 if rejection.reason() != Reason::Unauthorized => 2,
        401 => 1,
        _ => 0,
    };
    let challenges: Vec<_> = refusals.iter().flat_map(Rejection::challenges).cloned().collect();
    let mut weightiest = refusals
        .into_iter()
        .reduce(|first, next| if weight(&next) > weight(&first) { next } else { first })
        .expect("there is at least one");
    if weightiest.status() == 401 {
        weightiest = weightiest.without_challenges();
        for challenge in challenges {
            weightiest = weightiest.field("WWW-Authenticate", challenge);
        }
    }
    weightiest
}

struct AllOf(Vec<Authorizer>);

impl Authorize for AllOf {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let mut found: Option<Identity> = None;
        for authorizer in &self.0 {
            let identity = Authorize::authorize(authorizer, request).await?;
            found = Some(match found {
                Some(before) => before.and(identity),
                None => identity,
            });
        }
        Ok(found.expect("there is at least one"))
    }
}

struct Only<F> {
    of: Authorizer,
    may: F,
}

impl<F: Fn(&Identity) -> bool + 'static> Authorize for Only<F> {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let identity = Authorize::authorize(&self.of, request).await?;
        if (self.may)(&identity) { Ok(identity) } else { Err(Rejection::forbidden()) }
    }
}
