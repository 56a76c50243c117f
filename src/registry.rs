//! Tokens and paths → handlers, and paths → ordinary resources. The one place that boxes.
//!
//! A registry is built on its worker's own thread, so handlers hold `Rc` and `Cell`; what all cores share is captured
//! by the closure that builds it, visibly.

use std::{borrow::Cow, collections::HashMap, fmt, pin::Pin, rc::Rc};

use crate::{Accept, Accepts, Decision, Error, Rejection, Request, Response, Token, Upgrade, Upgraded};

/// Everything a server speaks and serves.
#[derive(Default)]
pub struct Registry {
    everywhere: Vec<Rc<dyn Handler>>,
    paths: HashMap<&'static str, Route>,
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
struct Route {
    handlers: Vec<Rc<dyn Handler>>,
    resource: Option<Rc<Resource>>,
}

type Resource = dyn Fn(&Request<'_>) -> Response;

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
    pub fn at(mut self, path: &'static str, handler: impl Upgrade) -> Self {
        self.route(path).handlers.push(Rc::new(handler));
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

    /// Serves an ordinary resource at `path`, for GET and HEAD. Where the path has handlers, too, its answers advertise
    /// them in `Upgrade`.
    ///
    /// # Panics
    /// If `path` has a resource already.
    pub fn get(mut self, path: &'static str, resource: impl Fn(&Request<'_>) -> Response + 'static) -> Self {
        let previous = self.route(path).resource.replace(Rc::new(resource));
        assert!(previous.is_none(), "{path} has a resource already");
        self
    }

    /// Whose order decides between several offered protocols.
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.preference = preference;
        self
    }

    /// Every protocol that is spoken anywhere, each once, in the order of registration.
    pub fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut paths: Vec<_> = self.paths.iter().collect();
        paths.sort_by_key(|(path, _)| **path);
        let routed = paths.into_iter().flat_map(|(_, route)| &route.handlers);
        for handler in self.everywhere.iter().chain(routed) {
            if !tokens.contains(&handler.token()) {
                tokens.push(handler.token());
            }
        }
        tokens
    }

    fn route(&mut self, path: &'static str) -> &mut Route {
        assert!(path.starts_with('/'), "a path starts with `/`: {path:?}");
        self.paths.entry(path).or_default()
    }

    /// What there is at `path`.
    pub(crate) fn find(&self, path: &str) -> Found {
        let route = self.paths.get(path);
        let own = route.map_or(&[][..], |route| &route.handlers);
        Found {
            handlers: own.iter().chain(&self.everywhere).cloned().collect(),
            resource: route.and_then(|route| route.resource.clone()),
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
    pub(crate) handlers: Vec<Rc<dyn Handler>>,
    pub(crate) resource: Option<Rc<Resource>>,
    preference: Preference,
}

impl Found {
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
    fn accepts(&self) -> Accepts;
    fn authorize<'a>(&'a self, request: &'a Request<'a>) -> LocalBoxFuture<'a, Result<(), Rejection>>;
    fn negotiate(self: Rc<Self>, request: &Request<'_>) -> Decision<Accepted>;
}

impl<U: Upgrade> Handler for U {
    fn token(&self) -> Token {
        Upgrade::token(self)
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
        let client = registry().find("/").offered(offers.split(", "));
        assert_eq!(tokens(&client), ["b/2", "b", "a"]);
        let server = registry().prefer(Preference::Server).find("/").offered(offers.split(", "));
        assert_eq!(tokens(&server), ["a", "b", "b/2"]);
        assert_eq!(tokens(&registry().find("/").offered(["a", "A", "a"].into_iter())), ["a"]);
    }

    #[test]
    fn a_path_has_its_own_protocols_before_those_of_every_path() {
        let registry = Registry::new()
            .on("everywhere", nothing)
            .at("/here", Closure { token: Token::new("here"), run: nothing });
        assert_eq!(registry.find("/here").advertisement(), "here, everywhere");
        assert_eq!(registry.find("/there").advertisement(), "everywhere");
        assert_eq!(registry.tokens().len(), 2);
    }

    #[test]
    fn a_list_without_end_is_not_looked_at_to_its_end() {
        let registry = Registry::new().on("a", nothing);
        let offers = vec!["b"; OFFERS_MAX].into_iter().chain(["a"]);
        assert!(registry.find("/").offered(offers).is_empty());
    }
}
