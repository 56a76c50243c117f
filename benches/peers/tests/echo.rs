//! Every server here echoes text and binary at any path, however the bytes are cut. So what is compared is the same.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    thread::sleep,
    time::Duration,
};

use peers::{client::Handshake, head_length};

const SERVERS: [(&str, &str); 5] = [
    ("floor", env!("CARGO_BIN_EXE_floor")),
    ("fastwebsockets", env!("CARGO_BIN_EXE_fastwebsockets")),
    ("tungstenite", env!("CARGO_BIN_EXE_tungstenite")),
    ("tokio-websockets", env!("CARGO_BIN_EXE_tokio-websockets")),
    ("sockudo", env!("CARGO_BIN_EXE_sockudo")),
];

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str) -> (Server, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server(Command::new(program).arg(port.to_string()).spawn().unwrap());
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        sleep(Duration::from_millis(10));
    }
    (server, port)
}

fn open(port: u16, path: &str, number: u64) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let handshake = Handshake::new(path, port, number);
    let (start, rest) = handshake.request.split_at(20);
    stream.write_all(start.as_bytes()).unwrap();
    sleep(Duration::from_millis(5));
    stream.write_all(rest.as_bytes()).unwrap();
    let mut head = Vec::new();
    while head_length(&head).is_none() {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    handshake.verify(&head).unwrap();
    stream
}

fn frame(opcode: u8, mask: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ ..126 => frame.push(mask | length as u8),
        length @ ..65_536 => frame.extend([&[mask | 126][..], &(length as u16).to_be_bytes()].concat()),
        length => frame.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
    }
    let key = if mask == 0 { [0; 4] } else { [7, 0, 250, 99] };
    frame.extend(&key[..usize::from(mask >> 7) * 4]);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    frame
}

#[test]
fn text_and_binary_come_back_from_any_path() {
    for (name, program) in SERVERS {
        let (_server, port) = start(program);
        for (number, path) in ["/", "/echo", "/any/where?q=1"].into_iter().enumerate() {
            let mut stream = open(port, path, number as u64);
            for size in [0, 1, 20, 125, 126, 1024, 16_384, 65_535, 65_536, 200_000] {
                for opcode in [1, 2] {
                    let payload: Vec<u8> = (0..size).map(|at| b' ' + (at % 95) as u8).collect();
                    stream.write_all(&frame(opcode, 0x80, &payload)).unwrap();
                    let expected = frame(opcode, 0, &payload);
                    let mut echo = vec![0; expected.len()];
                    stream.read_exact(&mut echo).unwrap_or_else(|error| panic!("{name} {size}: {error}"));
                    assert!(echo == expected, "{name} {path} {size}");
                }
            }
        }
    }
}

#[test]
fn a_burst_comes_back_in_order_however_it_is_cut() {
    for (name, program) in SERVERS {
        let (_server, port) = start(program);
        let sizes = [20, 1024, 0, 16_384, 126, 70_000];
        let messages: Vec<Vec<u8>> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
        let wire: Vec<u8> = messages.iter().flat_map(|message| frame(2, 0x80, message)).collect();
        let expected: Vec<u8> = messages.iter().flat_map(|message| frame(2, 0, message)).collect();
        for piece in [997, 20_011, wire.len()] {
            let mut stream = open(port, "/", piece as u64);
            for piece in wire.chunks(piece) {
                stream.write_all(piece).unwrap();
                sleep(Duration::from_micros(200));
            }
            let mut echo = vec![0; expected.len()];
            stream.read_exact(&mut echo).unwrap_or_else(|error| panic!("{name} {piece}: {error}"));
            assert!(echo == expected, "{name} {piece}");
        }
    }
}
