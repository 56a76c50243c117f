//! A client of the admin socket: blocking, a request for each connection.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::Value;

/// Which server.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub(super) struct Socket {
    /// The server's admin socket, as its `--admin-socket` says.
    #[arg(
        long,
        value_name = "PATH",
        env = "SWITCHPOINT_ADMIN_SOCKET",
        default_value = "/run/switchpoint/admin.sock",
        global = true
    )]
    socket: PathBuf,
}

/// What went wrong, for people.
pub(super) type Failure = String;

impl Socket {
    fn connect(&self) -> Result<UnixStream, Failure> {
        let stream = UnixStream::connect(&self.socket).map_err(|error| hint(&self.socket, &error))?;
        let limit = Some(Duration::from_secs(30));
        let set = stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit));
        set.map_err(|error| error.to_string())?;
        Ok(stream)
    }

    /// Asks for a resource, and returns what it answers; an error if that is not 200.
    pub(super) fn ask(&self, method: &str, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        let mut stream = self.connect()?;
        let target = target(path, query);
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let broken = |error: io::Error| format!("the server does not answer: {error}");
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let mut reader = BufReader::new(stream);
        let status = head(&mut reader).map_err(broken)?;
        let mut body = String::new();
        reader.take(BODY_MAX).read_to_string(&mut body).map_err(broken)?;
        match (status, serde_json::from_str::<Value>(&body)) {
            (200, Ok(value)) => Ok(value),
            (_, Ok(value)) if value["error"].is_string() => {
                Err(value["error"].as_str().unwrap_or_default().into())
            }
            _ => {
                Err(last_line(&body)
                    .map_or_else(|| format!("the server answers {status}"), ToOwned::to_owned))
            }
        }
    }

    /// Has the connection switched to `token`, and returns it, with a way to end it from elsewhere.
    pub(super) fn switch(
        &self,
        token: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<(BufReader<UnixStream>, UnixStream), Failure> {
        let mut stream = self.connect()?;
        let target = target(path, query);
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: admin\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n"
        );
        let broken = |error: io::Error| format!("the server does not answer: {error}");
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let ends = stream.try_clone().map_err(broken)?;
        let mut reader = BufReader::new(stream);
        if head(&mut reader).map_err(broken)? == 101 {
            reader.get_ref().set_read_timeout(None).map_err(broken)?;
            return Ok((reader, ends));
        }
        let mut body = String::new();
        reader.take(BODY_MAX).read_to_string(&mut body).map_err(broken)?;
        Err(last_line(&body).unwrap_or("the server refuses").to_owned())
    }
}

/// Ends a connection; a read of it elsewhere returns.
pub(super) fn end(stream: &UnixStream) {
    drop(stream.shutdown(Shutdown::Both)); // it fails only where it has ended
}

/// An answer of a thousand sessions is a third of a megabyte.
const BODY_MAX: u64 = 16 << 20;

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

fn hint(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket; was the server started with --admin-socket?",
        io::ErrorKind::PermissionDenied => "only the server's user, and root, may open it",
        io::ErrorKind::ConnectionRefused => "nobody listens there; is the server running?",
        _ => return format!("{}: {error}", path.display()),
    };
    format!("{}: {hint}", path.display())
}

fn target(path: &str, query: &[(&str, String)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{path}?{query}")
}

/// Reads a head, and returns its status.
fn head(reader: &mut impl BufRead) -> io::Result<u16> {
    let mut status = None;
    for _ in 0..100 {
        let mut line = String::new();
        reader.by_ref().take(8192).read_line(&mut line)?;
        if status.is_none() {
            status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        }
        if line.trim().is_empty() {
            break;
        }
    }
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP"))
}
