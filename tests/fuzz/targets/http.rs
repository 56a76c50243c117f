//! Heads, bodies and lists.

use std::{collections::BTreeMap, str};

use switchpoint::http::{BodyReader, Framing, Head, HeadFault, HeadScanner, Limits, Target, Version, list};

use crate::{memory::Meter, random::Random};

/// A head's end is found where it is, however it dribbles in, and what it was parsed to is what it said.
pub fn head(bytes: &[u8], random: &mut Random) -> bool {
    let limits = Limits {
        head_max: random.pick(&[64, 200, 16 << 10, 16 << 10]),
        fields_max: random.pick(&[2, 100, 100]),
        target_max: random.pick(&[8, 8192, 8192]),
    };
    let whole = HeadScanner::default().find(bytes, &limits);
    let (mut scanner, mut arrived) = (HeadScanner::default(), 0);
    let cut = random.pieces(bytes).iter().find_map(|piece| {
        arrived += piece.len();
        scanner.find(&bytes[..arrived], &limits).transpose()
    });
    assert_eq!(cut.transpose(), whole);
    let Ok(Some(end)) = whole else {
        // The scanner's limit is for the whole line.
        assert!(Head::parse(bytes, &limits).is_err() || whole == Err(HeadFault::TargetTooLong));
        return false;
    };
    assert!(end <= limits.head_max && bytes[..end].ends_with(b"\r\n\r\n"));
    assert_eq!(scanner.find(bytes, &limits), Ok(Some(end)));
    assert_eq!(HeadScanner::default().find(&bytes[..end - 1], &limits), Ok(None));
    Head::parse(&bytes[..end], &limits).is_ok_and(|head| {
        assert!(
            head.fields.iter().count() <= limits.fields_max && head.target.raw().len() <= limits.target_max
        );
        keeps_the_rules(&head);
        is_said_again(&head);
        true
    })
}

fn keeps_the_rules(head: &Head<'_>) {
    let (fields, mut counts) = (&head.fields, BTreeMap::new());
    for (name, value) in fields.iter() {
        assert!(list::is_token(name) && value.trim_ascii() == value);
        assert!(value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)));
        counts.entry(name.to_ascii_uppercase()).or_insert_with(Vec::new).push(value);
    }
    for (name, values) in &counts {
        assert!(fields.all(name).eq(values.iter().copied()) && fields.count(name) == values.len());
        assert_eq!((fields.get(name), fields.only(name).is_ok()), (Some(values[0]), values.len() == 1));
        assert!(fields.tokens(name).eq(values.iter().flat_map(|value| list::items(value))));
        assert!(fields.tokens(name).all(|token| fields.has_token(name, &token.to_ascii_lowercase())));
    }
    let count = |name: &str| counts.get(name).map_or(0, Vec::len);
    let framed = (count("TRANSFER-ENCODING"), count("CONTENT-LENGTH"));
    match head.framing {
        Framing::None => assert_eq!(framed, (0, 0)),
        Framing::Chunked => assert_eq!((framed, head.version), ((1, 0), Version::Http11)),
        Framing::Length(length) => {
            let digits = fields.text("content-length").unwrap().trim_start_matches('0');
            assert_eq!((framed, format!("0{digits}").parse()), ((0, 1), Ok(length)));
        }
    }
    assert!(count("HOST") == 1 || (count("HOST") == 0 && head.version == Version::Http10));
    assert!(list::is_token(head.method) && head.target.raw().bytes().all(|byte| byte.is_ascii_graphic()));
    let names_one = matches!(head.target, Target::Absolute { .. } | Target::Authority(_));
    assert_eq!(head.authority().is_some(), names_one || count("HOST") == 1);
}

fn is_said_again(head: &Head<'_>) {
    let version = if head.version == Version::Http11 { "1.1" } else { "1.0" };
    let mut said = format!("{} {} HTTP/{version}\r\n", head.method, head.target.raw()).into_bytes();
    for (name, value) in head.fields.iter() {
        said.extend([name.as_bytes(), b":\t", value, b" \r\n"].concat());
    }
    said.extend(b"\r\n");
    let limits = Limits { head_max: said.len(), fields_max: 1000, target_max: 1 << 14 };
    assert_eq!(HeadScanner::default().find(&said, &limits), Ok(Some(said.len())));
    let again = Head::parse(&said, &limits).unwrap();
    assert!(again.fields.iter().eq(head.fields.iter()));
    let facts = |head: &Head<'_>| (head.framing, head.expects_continue, head.keep_alive);
    assert_eq!((again.method, again.target, again.version), (head.method, head.target, head.version));
    assert_eq!((facts(&again), again.authority()), (facts(head), head.authority()));
}

/// A body is the same however it is cut, ends on its last byte, and takes the memory of what has arrived.
pub fn body(bytes: &[u8], random: &mut Random) -> bool {
    let max = random.pick(&[0, 5, 64, 4096, usize::MAX]);
    let length = random.pick(&[random.clone().below(64) as u64, u64::MAX, max as u64]);
    let framing = random.pick(&[Framing::None, Framing::Length(length), Framing::Chunked, Framing::Chunked]);
    let Ok(reader) = BodyReader::new(framing, max) else {
        assert!(matches!(framing, Framing::Length(length) if length > max as u64));
        return false;
    };
    let read = |pieces: &[&[u8]]| {
        let (mut reader, mut body, mut consumed) = (reader.clone(), Vec::new(), 0);
        for piece in pieces {
            match reader.read(piece, &mut body) {
                Ok(progress) => {
                    assert!(
                        progress.consumed == piece.len()
                            || (progress.done && progress.consumed < piece.len())
                    );
                    consumed += progress.consumed;
                }
                Err(fault) => return (body, Err(fault)),
            }
        }
        (body, Ok((consumed, reader.is_done())))
    };
    let (whole, memory) = Meter::default().watch(|| read(&[bytes]));
    assert!(memory <= 2 * bytes.len() + 8, "{memory}");
    assert_eq!(read(&random.pieces(bytes)), whole);
    assert!(whole.0.len() <= max);
    let (body, Ok((consumed, true))) = &whole else { return false };
    assert_eq!(read(&[&bytes[..*consumed]]), whole);
    assert!(*consumed == 0 || matches!(read(&[&bytes[..consumed - 1]]).1, Ok((_, false))));
    assert_eq!(
        *body,
        if framing == Framing::Chunked { unchunked(bytes) } else { bytes[..*consumed].to_vec() }
    );
    true
}

/// The data of chunks that are known to be valid (RFC 9112 7.1.3).
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|end| end == b"\r\n").unwrap();
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(str::from_utf8(&bytes[..digits]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

/// Items and parameters lie in their value, in its order, and mean the same when they are written out.
pub fn list(bytes: &[u8], _: &mut Random) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let quoted = format!("a; b=\"{}\"; c", text.replace('\\', r"\\").replace('"', r#"\""#));
    let (name, parameters) = list::parameters(&quoted);
    let parameters: Vec<_> = parameters.map(Result::unwrap).map(|parameter| parameter.value).collect();
    assert_eq!((name, parameters), ("a", vec![Some(text), None]));
    assert!(list::items(format!("{quoted}, d").as_bytes()).eq([&*quoted, "d"]));

    let items: Vec<&str> = list::items(bytes).collect();
    let mut at = bytes.as_ptr();
    for item in &items {
        assert!(!item.is_empty() && item.trim_ascii() == *item);
        assert!(at <= item.as_ptr() && item.as_bytes().as_ptr_range().end <= bytes.as_ptr_range().end);
        at = item.as_bytes().as_ptr_range().end;
    }
    assert!(list::items(items.join(" ,, ").as_bytes()).eq(items.iter().copied()));
    let mut has_parameters = false;
    for item in items.into_iter().chain(str::from_utf8(bytes)) {
        let (name, parameters) = list::parameters(item);
        let parameters: Vec<_> = parameters.flatten().collect();
        let mut written = name.to_owned();
        for list::Parameter { name, value } in &parameters {
            let value = value.as_ref().map(|value| value.replace('\\', r"\\").replace('"', r#"\""#));
            written +=
                &format!(" ;\t{name}{}", value.map_or(String::new(), |value| format!(" = \"{value}\"")));
            assert!(list::is_token(name) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
        }
        let (same, again) = list::parameters(&written);
        assert_eq!((same, again.map(Result::unwrap).collect()), (name, parameters.clone()));
        has_parameters |= !parameters.is_empty();
    }
    has_parameters
}
