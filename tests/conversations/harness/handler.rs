//! A handler whose decisions are closures. Once switched it says what was settled, then sends back what it hears.

use std::{future::ready, pin::Pin};

use switchpoint::{Accept, Accepts, Decision, Error, Rejection, Request, Token, Upgrade, Upgraded};

pub(crate) struct Custom {
    token: Token,
    accepts: Accepts,
    authorize: Box<Authorize>,
    negotiate: Box<Negotiate>,
}

type Authorize = dyn for<'a> Fn(&'a Request<'a>) -> Authorized<'a>;
type Authorized<'a> = Pin<Box<dyn Future<Output = Result<(), Rejection>> + 'a>>;
type Negotiate = dyn Fn(&Request<'_>) -> Decision<String>;

impl Custom {
    /// Takes everything, and says the name of its protocol.
    pub(crate) fn new(token: &'static str) -> Self {
        Self {
            token: Token::new(token),
            accepts: Accepts::default(),
            authorize: Box::new(|_| Box::pin(ready(Ok(())))),
            negotiate: Box::new(move |_| Decision::Accept(Accept::new(format!("{token}\n")))),
        }
    }

    pub(crate) fn accepts(mut self, accepts: Accepts) -> Self {
        self.accepts = accepts;
        self
    }

    pub(crate) fn authorize(
        mut self,
        authorize: impl for<'a> Fn(&'a Request<'a>) -> Authorized<'a> + 'static,
    ) -> Self {
        self.authorize = Box::new(authorize);
        self
    }

    pub(crate) fn negotiate(
        mut self,
        negotiate: impl Fn(&Request<'_>) -> Decision<String> + 'static,
    ) -> Self {
        self.negotiate = Box::new(negotiate);
        self
    }
}

impl Upgrade for Custom {
    type Session = String;

    fn token(&self) -> Token {
        self.token
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }

    async fn authorize(&self, request: &Request<'_>) -> Result<(), Rejection> {
        (self.authorize)(request).await
    }

    fn negotiate(&self, request: &Request<'_>) -> Decision<String> {
        (self.negotiate)(request)
    }

    async fn run(&self, settled: String, mut connection: Upgraded) -> Result<(), Error> {
        connection.write_all(settled.as_bytes()).await?;
        loop {
            connection.write_all(connection.unread()).await?;
            connection.consume(connection.unread().len());
            if !connection.fill().await? {
                return Ok(());
            }
        }
    }
}
