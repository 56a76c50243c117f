//! Ordinary resources: what a path answers to who does not switch. Written once, a resource is served over HTTP/1.1, over
//! HTTP/2, and to the request that came with an `Upgrade: h2c`.

use std::rc::Rc;

use crate::{
    Rejection, Request, Response,
    authorize::{Authorize, Authorized, Authorizer, GuardedAnswers},
    registry::LocalBoxFuture,
};

/// An ordinary resource that may wait before it answers.
///
/// ```
/// use switchpoint::{Registry, Rejection, Request, Resource, Response};
///
/// /// Sends back what it is given.
/// struct Mirror;
///
/// impl Resource for Mirror {
///     fn methods(&self) -> &'static [&'static str] {
///         &["POST", "PUT"]
///     }
///
///     async fn answer(&self, request: &Request<'_>) -> Result<Response, Rejection> {
///         match String::from_utf8(request.body().to_vec()) {
///             Ok(text) => Ok(Response::text(text)),
///             Err(_) => Err(Rejection::bad_request("The body is not UTF-8.")),
///         }
///     }
/// }
///
/// Registry::new().resource("/mirror", Mirror);
/// ```
#[expect(async_fn_in_trait, reason = "a connection never leaves its core, so nothing has to be `Send`")]
pub trait Resource: 'static {
    /// The methods that it takes, as they stand in `Allow`. HEAD comes with GET, and OPTIONS with each.
    fn methods(&self) -> &'static [&'static str] {
        &["GET"]
    }

    /// Answers one request. Its body is there whole, within [`Config::body_max`](crate::Config::body_max). If the client
    /// takes its request back the future is dropped; after [`Config::answer_time`](crate::Config::answer_time) it is
    /// dropped, too, and the answer is 503.
    ///
    /// # Errors
    /// The answer instead, with its reason.
    async fn answer(&self, request: &Request<'_>) -> Result<Response, Rejection>;

    /// The same, behind an [`Authorizer`] or another that [authorizes](Authorize): it is asked first, with the request's
    /// body read already.
    fn authorized_by(self, authorize: impl Authorize) -> Authorized<Self>
    where
        Self: Sized,
    {
        Authorized::new(self, authorize)
    }
}

/// [`Resource`], so that a list can hold any of them; those that answer at once need no future.
#[derive(Clone)]
pub(crate) enum Answerer {
    AtOnce(Rc<dyn Fn(&Request<'_>) -> Response>),
    InTime(Rc<dyn Answers>),
}

pub(crate) trait Answers {
    fn answer<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<Response, Rejection>>;
}

impl<R: Resource> Answers for R {
    fn answer<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<Response, Rejection>> {
        Box::pin(Resource::answer(self, request))
    }
}

/// A closure that answers to one list of methods.
pub(crate) struct Closure<F> {
    pub(crate) methods: &'static [&'static str],
    pub(crate) answer: F,
}

impl<F> Resource for Closure<F>
where
    F: for<'a> AsyncFn(&'a Request<'a>) -> Result<Response, Rejection> + 'static,
{
    fn methods(&self) -> &'static [&'static str] {
        self.methods
    }

    async fn answer(&self, request: &Request<'_>) -> Result<Response, Rejection> {
        (self.answer)(request).await
    }
}

/// The resources of a path, by method.
#[derive(Default)]
pub(crate) struct Resources {
    list: Vec<(&'static [&'static str], Answerer)>,
    /// Whom those have to ask first who want an answer of one of them.
    pub(crate) guard: Option<Authorizer>,
}

/// What a request for a path gets, as far as its method says.
pub(crate) enum Choice {
    Answer(Response),
    Ask(Answerer),
}

impl Resources {
    /// Adds one; `false` if there is one already for one of its methods.
    pub(crate) fn add(&mut self, methods: &'static [&'static str], answerer: Answerer) -> bool {
        let is_new = !methods.iter().any(|method| self.answerer(method).is_some());
        if is_new {
            self.list.push((methods, answerer));
        }
        is_new
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Who answers to `method`, or what does. The path has to have some resource.
    pub(crate) fn choose(&self, method: &str) -> Result<Choice, Rejection> {
        match self.answerer(method) {
            Some(answerer) => Ok(Choice::Ask(match &self.guard {
                Some(guard) => {
                    let (answerer, guard) = (answerer.clone(), guard.clone());
                    Answerer::InTime(Rc::new(GuardedAnswers { answerer, guard }))
                }
                None => answerer.clone(),
            })),
            None if method == "OPTIONS" => {
                Ok(Choice::Answer(Response::new(204).field("Allow", self.allow())))
            }
            None => Err(Rejection::method_not_allowed(self.allow())),
        }
    }

    fn answerer(&self, method: &str) -> Option<&Answerer> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.list.iter().find(|(methods, _)| methods.contains(&method)).map(|(_, answerer)| answerer)
    }

    fn allow(&self) -> String {
        let mut allow = Vec::new();
        for method in self.list.iter().flat_map(|(methods, _)| *methods) {
            allow.push(*method);
            if *method == "GET" {
                allow.push("HEAD");
            }
        }
        allow.push("OPTIONS");
        allow.join(", ")
    }
}

/// The methods that HTTP defines; any other one is 501 (RFC 9110 9.1).
pub(crate) const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_resource_for_each_method_and_says_which() {
        let at_once = |_: &Request<'_>| Response::new(204);
        let mut resources = Resources::default();
        assert!(resources.add(&["GET"], Answerer::AtOnce(Rc::new(at_once))));
        assert!(resources.add(&["POST", "PUT"], Answerer::AtOnce(Rc::new(at_once))));
        assert!(!resources.add(&["PUT"], Answerer::AtOnce(Rc::new(at_once))));
        for method in ["GET", "HEAD", "POST", "PUT"] {
            assert!(matches!(resources.choose(method), Ok(Choice::Ask(_))), "{method}");
        }
        let Ok(Choice::Answer(options)) = resources.choose("OPTIONS") else { panic!() };
        assert_eq!(options.fields, [("Allow", "GET, HEAD, POST, PUT, OPTIONS".into())]);
        assert!(resources.choose("DELETE").is_err_and(|rejection| rejection.has_field("allow")));
    }
}
