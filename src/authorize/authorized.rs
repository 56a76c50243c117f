//! A handler or a resource behind an [`Authorizer`].

use std::rc::Rc;

use super::{Authorize, Authorizer};
use crate::{
    Accepts, Decision, Error, Rejection, Request, Resource, Response, Token, Upgrade, Upgraded,
    registry::{Accepted, Handler, LocalBoxFuture},
    resource::{Answerer, Answers},
};

/// A handler or a resource that is asked only by those whom an [`Authorizer`] lets through.
#[derive(Debug)]
pub struct Authorized<T> {
    inner: T,
    authorizer: Authorizer,
}

impl<T> Authorized<T> {
    /// `inner`, behind `authorize`.
    pub fn new(inner: T, authorize: impl Authorize) -> Self {
        Self { inner, authorizer: Authorizer::new(authorize) }
    }
}

impl<U: Upgrade> Upgrade for Authorized<U> {
    type Session = U::Session;

    fn token(&self) -> Token {
        self.inner.token()
    }

    fn is_http(&self) -> bool {
        self.inner.is_http()
    }

    fn considers(&self, request: &Request<'_>) -> bool {
        self.inner.considers(request)
    }

    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }

    async fn authorize(&self, request: &Request<'_>) -> Result<(), Rejection> {
        self.authorizer.admit(request).await?;
        self.inner.authorize(request).await
    }

    fn negotiate(&self, request: &Request<'_>) -> Decision<Self::Session> {
        self.inner.negotiate(request)
    }

    // Not an `async fn`, which would have room for its arguments twice.
    fn run(&self, session: Self::Session, connection: Upgraded) -> impl Future<Output = Result<(), Error>> {
        self.inner.run(session, connection)
    }
}

impl<R: Resource> Resource for Authorized<R> {
    fn methods(&self) -> &'static [&'static str] {
        self.inner.methods()
    }

    async fn answer(&self, request: &Request<'_>) -> Result<Response, Rejection> {
        self.authorizer.admit(request).await?;
        self.inner.answer(request).await
    }
}

/// A handler at a path that is [guarded](crate::Registry::guard).
pub(crate) struct GuardedHandler {
    pub(crate) handler: Rc<dyn Handler>,
    pub(crate) guard: Authorizer,
}

impl Handler for GuardedHandler {
    fn token(&self) -> Token {
        self.handler.token()
    }

    fn is_http(&self) -> bool {
        self.handler.is_http()
    }

    fn considers(&self, request: &Request<'_>) -> bool {
        self.handler.considers(request)
    }

    fn accepts(&self) -> Accepts {
        self.handler.accepts()
    }

    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<(), Rejection>> {
        Box::pin(async move {
            self.guard.admit(request).await?;
            self.handler.authorize(request).await
        })
    }

    fn negotiate(self: Rc<Self>, request: &Request<'_>) -> Decision<Accepted> {
        Rc::clone(&self.handler).negotiate(request)
    }
}

/// A resource at a path that is guarded.
pub(crate) struct GuardedAnswers {
    pub(crate) answerer: Answerer,
    pub(crate) guard: Authorizer,
}

impl Answers for GuardedAnswers {
    fn answer<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<Response, Rejection>> {
        Box::pin(async move {
            self.guard.admit(request).await?;
            match &self.answerer {
                Answerer::AtOnce(answer) => Ok(answer(request)),
                Answerer::InTime(resource) => resource.answer(request).await,
            }
        })
    }
}
