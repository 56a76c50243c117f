//! Tokens and paths → handlers, and paths → ordinary resources. The one place that boxes.
//!
//! A registry is built on its worker's own thread, so handlers hold `Rc` and `Cell`; what all cores share is captured
//! by the closure that builds it, visibly.

use std::{borrow::Cow, collections::HashMap, fmt, pin::Pin, rc::Rc};

use crate::{
    Accept, Accepts, Decision, Error, Rejection, Request, Resource, Response, Token, Upgrade, Upgraded,
    authorize::{Authorize, Authorizer, GuardedHandler},
    resource::{self, Answerer, Resources},
};

/// Everything a server speaks and serves.
#[derive(Default)]
pub struct Registry {
    everywhere: Vec<Rc<dyn Handler>>,
    paths: HashMap<Cow<'static, str>, Rc<Route>>,
    preference: Preference,
}

/// Whose order decides when a client offers several protocols that we speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The client's: the order of its `Upgrade` list (RFC 9110 7.8).
    #[default]
    Client,
    /// Ours: the order of registration. RFC 9110 lets the server choose.
    Server,
}

/// What a path has.
#[derive(Default)]
pub(crate) struct Route {
    handlers: Vec<Rc<dyn Handler>>,
    pub(crate) resources: Resources,
}

impl Registry {
    /// Nothing yet: every request is answered with 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Speaks `handler`'s protocol on every path.
    pub fn with(mut self, handler: impl Upgrade) -> Self {
        self.everywhere.push(Rc::new(handler));
        self
    }

    /// Speaks `handler`'s protocol at `path`. A path with handlers and no resource is upgrade-only: any other request
    /// there is answered with 426, which lists them.
    pub fn at(mut self, path: impl Into<Cow<'static, str>>, handler: impl Upgrade) -> Self {
        self.route(path.into()).handlers.push(Rc::new(handler));
        self
    }

    /// A closure is a handler, too: speaks `token` on every path.
    ///
    /// # Panics
    /// If `token` is not `name` or `name/version` in RFC 9110 tokens.
    pub fn on<F>(self, token: &'static str, run: F) -> Self
    where
        F: AsyncFn(Upgraded) -> Result<(), Error> + 'static,
    {
        self.with(Closure { token: Token::new(token), run })
    }

    /// Serves an ordinary resource at `path`, for GET and HEAD, that answers at once. Where the path has handlers, too,
    /// its answers advertise them in `Upgrade`.
    ///
    /// # Panics
    /// If `path` has a resource for GET already.
    pub fn get(
        self,
        path: impl Into<Cow<'static, str>>,
        resource: impl Fn(&Request<'_>) -> Response + 'static,
    ) -> Self {
        self.answers(path.into(), &["GET"], Answerer::AtOnce(Rc::new(resource)))
    }

    /// Serves an ordinary resource at `path`, for POST: the request's body is there whole.
    ///
    /// ```
    /// use switchpoint::{Registry, Request, Response};
    ///
    /// Registry::new().post("/length", async |request: &Request<'_>| {
    ///     Ok(Response::text(request.body().len().to_string()))
    /// });
    /// ```
    ///
    /// # Panics
    /// If `path` has a resource for POST already.
    pub fn post<F>(self, path: impl Into<Cow<'static, str>>, answer: F) -> Self
    where
        F: for<'a> AsyncFn(&'a Request<'a>) -> Result<Response, Rejection> + 'static,
    {
        self.resource(path, resource::Closure { methods: &["POST"], answer })
    }

    /// Serves an ordinary resource at `path`, for the methods that it takes.
    ///
    /// # Panics
    /// If `path` has a resource for one of them already.
    pub fn resource(self, path: impl Into<Cow<'static, str>>, resource: impl Resource) -> Self {
        self.answers(path.into(), resource.methods(), Answerer::InTime(Rc::new(resource)))
    }

    fn answers(
        mut self,
        path: Cow<'static, str>,
        methods: &'static [&'static str],
        answerer: Answerer,
    ) -> Self {
        let is_added = self.route(path.clone()).resources.add(methods, answerer);
        assert!(is_added, "{path} has a resource for that already");
        self
    }

    /// Lets nobody at `path` whom `authorize` does not know: it is asked before every protocol that is spoken there, those
    /// of every path too, and before every resource. `OPTIONS` is answered without it, as it says nothing but methods.
    ///
    /// # Panics
    /// If `path` has a guard already.
    pub fn guard(mut self, path: impl Into<Cow<'static, str>>, authorize: impl Authorize) -> Self {
        let path = path.into();
        let guard = self.route(path.clone()).resources.guard.replace(Authorizer::new(authorize));
        assert!(guard.is_none(), "{path} has a guard already");
        self
    }

    /// Whose order decides between several offered protocols.
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.preference = preference;
        self
    }

    /// The protocol that is offered by this name, if it is spoken anywhere.
    pub(crate) fn token(&self, offer: &str) -> Option<Token> {
        let routed = self.paths.values().flat_map(|route| &route.handlers);
        let mut tokens = self.everywhere.iter().chain(routed).map(|handler| handler.token());
        tokens.find(|token| token.is_offered_as(offer))
    }

    /// Every protocol that is spoken anywhere, each once, in the order of registration.
    pub fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut paths: Vec<_> = self.paths.iter().collect();
        paths.sort_by_key(|(path, _)| *path);
        let routed = paths.into_iter().flat_map(|(_, route)| &route.handlers);
        for handler in self.everywhere.iter().chain(routed) {
            if !tokens.contains(&handler.token()) {
                tokens.push(handler.token());
            }
        }
        tokens
    }

    fn route(&mut self, path: Cow<'static, str>) -> &mut Route {
        assert!(path.starts_with('/'), "a path starts with `/`: {path:?}");
        Rc::get_mut(self.paths.entry(path).or_default()).expect("nothing is looked up while it is built")
    }

    /// The path's own part of what there is.
    pub(crate) fn at_path(&self, path: &str) -> Option<&Route> {
        self.paths.get(path).map(|route| &**route)
    }

    /// Whether `protocol` is spoken anywhere, by a handler that is not HTTP itself.
    pub(crate) fn speaks(&self, protocol: &str) -> bool {
        let routed = self.paths.values().flat_map(|route| &route.handlers);
        let mut handlers = self.everywhere.iter().chain(routed);
        handlers.any(|handler| handler.token().is_offered_as(protocol) && !handler.is_http())
    }

    /// What there is at `path`; with versions of HTTP, where the connection may change its own.
    pub(crate) fn find(&self, path: &str, with_http: bool) -> Found {
        let route = self.paths.get(path);
        let own = route.map_or(&[][..], |route| &route.handlers);
        let handlers = own.iter().chain(&self.everywhere).filter(|handler| with_http || !handler.is_http());
        let guard = route.and_then(|route| route.resources.guard.as_ref());
        let guarded = |handler: &Rc<dyn Handler>| match guard {
            // What is HTTP itself answers nothing before it is spoken; the request is judged then.
            Some(guard) if !handler.is_http() => {
                let (handler, guard) = (Rc::clone(handler), guard.clone());
                Rc::new(GuardedHandler { handler, guard }) as Rc<dyn Handler>
            }
            _ => Rc::clone(handler),
        };
        Found {
            handlers: handlers.map(guarded).collect(),
            route: route.cloned(),
            preference: self.preference,
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tokens()).finish()
    }
}

/// What a request's path has: owned, because a handler may wait while it decides.
pub(crate) struct Found {
    handlers: Vec<Rc<dyn Handler>>,
    route: Option<Rc<Route>>,
    preference: Preference,
}

impl Found {
    /// The path's resources, if it has any.
    pub(crate) fn resources(&self) -> Option<&Resources> {
        self.route.as_ref().map(|route| &route.resources).filter(|resources| !resources.is_empty())
    }

    /// Whether the path is there for a protocol. One that is HTTP itself, such as h2c, makes no path.
    pub(crate) fn has_protocols(&self) -> bool {
        self.handlers.iter().any(|handler| !handler.is_http())
    }

    /// The handlers whose protocol is offered, in the order in which they are asked.
    pub(crate) fn offered<'a>(&self, offers: impl Iterator<Item = &'a str>) -> Vec<Rc<dyn Handler>> {
        // What is beyond the bound was not meant seriously, and is not worth a look for each handler.
        let offers: Vec<&str> = offers.take(OFFERS_MAX).collect();
        let takes = |handler: &Rc<dyn Handler>, offer: &str| handler.token().is_offered_as(offer);
        match self.preference {
            Preference::Client => {
                let mut asked: Vec<Rc<dyn Handler>> = Vec::new();
                for offer in offers {
                    for handler in self.handlers.iter().filter(|handler| takes(handler, offer)) {
                        // A name that stands in the list twice is not asked for twice.
                        if !asked.iter().any(|known| Rc::ptr_eq(known, handler)) {
                            asked.push(Rc::clone(handler));
                        }
                    }
                }
                asked
            }
            Preference::Server => {
                let is_offered =
                    |handler: &&Rc<dyn Handler>| offers.iter().any(|offer| takes(handler, offer));
                self.handlers.iter().filter(is_offered).cloned().collect()
            }
        }
    }

    /// What stands in `Upgrade` when the path advertises its protocols.
    pub(crate) fn advertisement(&self) -> String {
        let mut list = String::new();
        let mut seen = Vec::new();
        for handler in &self.handlers {
            let token = handler.token();
            if !seen.contains(&token) {
                seen.push(token);
                list.push_str(if list.is_empty() { "" } else { ", " });
                list.push_str(&token.to_string());
            }
        }
        list
    }
}

/// More protocols than this in one `Upgrade` list are not looked at.
const OFFERS_MAX: usize = 16;

/// A future that stays on its core.
pub(crate) type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A settled protocol, ready to run.
pub(crate) struct Accepted {
    pub(crate) token: Token,
    pub(crate) fields: Vec<(&'static str, Cow<'static, str>)>,
    pub(crate) run: Box<dyn FnOnce(Upgraded) -> LocalBoxFuture<'static, Result<(), Error>>>,
}

/// [`Upgrade`] without its associated type, so that a list can hold any of them.
pub(crate) trait Handler {
    fn token(&self) -> Token;
    fn is_http(&self) -> bool;
    fn considers(&self, request: &Request<'_>) -> bool;
    fn accepts(&self) -> Accepts;
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<(), Rejection>>;
    fn negotiate(self: Rc<Self>, request: &Request<'_>) -> Decision<Accepted>;
}

impl<U: Upgrade> Handler for U {
    fn token(&self) -> Token {
        Upgrade::token(self)
    }

    fn is_http(&self) -> bool {
        Upgrade::is_http(self)
    }

    fn considers(&self, request: &Request<'_>) -> bool {
        Upgrade::considers(self, request)
    }

    fn accepts(&self) -> Accepts {
        Upgrade::accepts(self)
    }

    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<(), Rejection>> {
        Box::pin(Upgrade::authorize(self, request))
    }

    fn negotiate(self: Rc<Self>, request: &Request<'_>) -> Decision<Accepted> {
        match Upgrade::negotiate(&*self, request) {
            Decision::Accept(Accept { session, fields }) => {
                let token = Upgrade::token(&*self);
                let run = Box::new(move |upgraded| -> LocalBoxFuture<'static, _> {
                    // In a box that is gone when it runs, or it would have room for them for as long as it does.
                    let begin = Box::new((session, upgraded));
                    Box::pin(async move {
                        let running = {
                            let begin = begin;
                            let (session, upgraded) = *begin;
                            self.run(session, upgraded)
                        };
                        running.await
                    })
                });
                Decision::Accept(Accept { session: Accepted { token, fields, run }, fields: Vec::new() })
            }
            Decision::Decline => Decision::Decline,
            Decision::Reject(rejection) => Decision::Reject(rejection),
        }
    }
}

struct Closure<F> {
    token: Token,
    run: F,
}

impl<F> Upgrade for Closure<F>
where
    F: AsyncFn(Upgraded) -> Result<(), Error> + 'static,
{
    type Session = ();

    fn token(&self) -> Token {
        self.token
    }

    fn negotiate(&self, _: &Request<'_>) -> Decision<()> {
        Decision::Accept(Accept::new(()))
    }

    async fn run(&self, (): (), connection: Upgraded) -> Result<(), Error> {
        (self.run)(connection).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing(_: Upgraded) -> Result<(), Error> {
        Ok(())
    }

    fn tokens(handlers: &[Rc<dyn Handler>]) -> Vec<String> {
        handlers.iter().map(|handler| handler.token().to_string()).collect()
    }

    #[test]
    fn the_clients_order_decides_unless_ours_does() {
        let registry = || Registry::new().on("a", nothing).on("b", nothing).on("b/2", nothing);
        let offers = "x, B/2, b, a";
        let client = registry().find("/", true).offered(offers.split(", "));
        assert_eq!(tokens(&client), ["b/2", "b", "a"]);
        let server = registry().prefer(Preference::Server).find("/", true).offered(offers.split(", "));
        assert_eq!(tokens(&server), ["a", "b", "b/2"]);
        assert_eq!(tokens(&registry().find("/", true).offered(["a", "A", "a"].into_iter())), ["a"]);
    }

    #[test]
    fn a_path_has_its_own_protocols_before_those_of_every_path() {
        let registry = Registry::new()
            .on("everywhere", nothing)
            .at("/here", Closure { token: Token::new("here"), run: nothing });
        assert_eq!(registry.find("/here", true).advertisement(), "here, everywhere");
        assert_eq!(registry.find("/there", true).advertisement(), "everywhere");
        assert_eq!(registry.tokens().len(), 2);
    }

    #[test]
    fn a_list_without_end_is_not_looked_at_to_its_end() {
        let registry = Registry::new().on("a", nothing);
        let offers = vec!["b"; OFFERS_MAX].into_iter().chain(["a"]);
        assert!(registry.find("/", true).offered(offers).is_empty());
    }
}
