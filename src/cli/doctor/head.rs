//! A request as it is written: every rule can be broken by it.

/// The head of a request. The order of the fields is kept.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    method: String,
    target: String,
    version: String,
    fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn get(target: &str) -> Self {
        Self { method: "GET".into(), target: target.into(), version: "HTTP/1.1".into(), fields: Vec::new() }
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    pub(crate) fn target(mut self, target: &str) -> Self {
        self.target = target.into();
        self
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    /// One more line.
    pub(crate) fn add(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// The only line of this name, where the first one was.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        match self.fields.iter().position(|(field, _)| field.eq_ignore_ascii_case(name)) {
            Some(at) => {
                self.fields[at] = (name.into(), value.into());
                let mut place = 0;
                self.fields.retain(|(field, _)| {
                    place += 1;
                    place - 1 <= at || !field.eq_ignore_ascii_case(name)
                });
                self
            }
            None => self.add(name, value),
        }
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        self
    }

    /// All names changed.
    pub(crate) fn names(mut self, change: impl Fn(&str) -> String) -> Self {
        self.fields.iter_mut().for_each(|(name, _)| *name = change(name));
        self
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    pub(crate) fn request_line(&self) -> String {
        format!("{} {} {}", self.method, self.target, self.version)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.request_line());
        for (name, value) in &self.fields {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        text.into_bytes()
    }

    /// With these bytes behind it.
    pub(crate) fn then(&self, bytes: &[u8]) -> Vec<u8> {
        [&self.bytes()[..], bytes].concat()
    }

    /// With a line of any form behind the request line, and another one at the end.
    pub(crate) fn with_lines(&self, first: &str, last: &str) -> Vec<u8> {
        let text = String::from_utf8(self.bytes()).expect("it was made of text");
        let (line, fields) = text.split_once("\r\n").expect("the request line ends");
        let fields = fields.strip_suffix("\r\n").expect("the head ends");
        format!("{line}\r\n{first}{fields}{last}\r\n").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_added_and_taken_away() {
        let head = Head::get("/").add("A", "1").add("B", "2").add("a", "3").set("A", "4");
        assert_eq!(head.bytes(), b"GET / HTTP/1.1\r\nA: 4\r\nB: 2\r\n\r\n");
        assert_eq!(
            head.clone().without("b").set("C", "5").bytes(),
            b"GET / HTTP/1.1\r\nA: 4\r\nC: 5\r\n\r\n"
        );
        assert_eq!(head.with_lines(" x\r\n", "y\r\n"), b"GET / HTTP/1.1\r\n x\r\nA: 4\r\nB: 2\r\ny\r\n\r\n");
    }
}
