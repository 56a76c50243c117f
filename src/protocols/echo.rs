//! `echo`: sends back what it receives, byte for byte. The shortest protocol there is, and the example to start from.

use crate::{Accept, Accepts, Decision, EarlyBytes, Error, Request, Token, Upgrade, Upgraded};

/// The `echo` protocol: after the 101 every byte comes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Upgrade for Echo {
    type Session = ();

    fn token(&self) -> Token {
        Token::new("echo")
    }

    fn accepts(&self) -> Accepts {
        // Bytes mean themselves, so there is no harm in those that come early.
        Accepts::default().early(EarlyBytes::Keep)
    }

    fn negotiate(&self, _: &Request<'_>) -> Decision<()> {
        Decision::Accept(Accept::new(()))
    }

    async fn run(&self, (): (), mut connection: Upgraded) -> Result<(), Error> {
        loop {
            connection.write_all(connection.unread()).await?;
            connection.consume(connection.unread().len());
            if !connection.fill().await? {
                return Ok(());
            }
        }
    }
}
