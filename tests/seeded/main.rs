//! The targets of `tests/fuzz` on inputs from ten thousand seeds each: valid ones changed in a few places, and some that
//! are nothing at all. A failure prints its seed and its input; `SWITCHPOINT_SEED=n` plays that seed alone,
//! `SWITCHPOINT_CORPUS=directory` also writes inputs for the fuzzer there.

#[path = "../fuzz/memory.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate is a library")]
mod memory;
#[path = "../fuzz/random.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate is a library")]
mod random;
mod seeds;
#[path = "../fuzz/targets/mod.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate is a library")]
mod targets;

use std::{env, fs, path::Path, thread};

use random::Random;
use targets::Target;

const INPUTS: u64 = 10_000;

/// Plays `target` on what `input` makes of each seed. A target that takes all or nothing tests half of what it should:
/// at least every twentieth input is taken, and every twentieth refused.
fn play(name: &str, target: Target, mut input: impl FnMut(&mut Random) -> Vec<u8>) {
    let corpus = env::var("SWITCHPOINT_CORPUS").map(|corpus| Path::new(&corpus).join(name));
    let mut once = |seed| {
        let mut random = Random(seed);
        let bytes = input(&mut random);
        if let Ok(corpus) = &corpus {
            write_down(corpus, seed, &bytes);
        }
        let _shown = ShownIfItFails(seed, &bytes);
        target(&bytes, &mut random)
    };
    if let Ok(seed) = env::var("SWITCHPOINT_SEED") {
        once(seed.parse().expect("SWITCHPOINT_SEED is a number"));
        return;
    }
    let taken = (0..INPUTS).filter(|seed| once(*seed)).count() as u64;
    assert!((INPUTS / 20..=INPUTS * 19 / 20).contains(&taken), "{taken} of {INPUTS} were taken");
}

/// For libFuzzer to start from.
fn write_down(corpus: &Path, seed: u64, bytes: &[u8]) {
    if seed < CORPUS {
        fs::create_dir_all(corpus).unwrap();
        fs::write(corpus.join(seed.to_string()), [&seed.to_le_bytes(), bytes].concat()).unwrap();
    }
}

const CORPUS: u64 = 500;

struct ShownIfItFails<'a>(u64, &'a [u8]);

impl Drop for ShownIfItFails<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("SWITCHPOINT_SEED={}: b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

#[test]
fn a_head_is_found_and_parsed_the_same_however_it_is_cut() {
    let seeds = seeds::requests();
    play("head", targets::head, |random| random.mutated(&seeds));
}

#[test]
fn a_body_ends_on_its_last_byte_however_it_is_cut() {
    let seeds = seeds::bodies();
    play("body", targets::body, |random| random.mutated(&seeds));
}

#[test]
fn a_list_means_the_same_when_it_is_written_out() {
    let seeds = seeds::lists();
    play("list", targets::list, |random| random.mutated(&seeds));
}

#[test]
fn a_frame_header_is_decoded_from_its_own_bytes() {
    play("frame", targets::frame, seeds::headers);
}

#[test]
fn messages_are_the_same_for_either_role_however_they_are_cut() {
    play("message", targets::message, seeds::frames);
}

#[test]
#[cfg(feature = "deflate")]
fn compressed_messages_come_out_as_they_went_in() {
    let seeds = seeds::texts();
    play("deflate", targets::deflate, |random| random.mutated(&seeds));
}

#[test]
#[cfg(feature = "deflate")]
fn an_extension_is_answered_within_its_offer() {
    let seeds = seeds::offers();
    play("extension", targets::extension, |random| random.mutated(&seeds));
}

#[test]
fn every_request_is_answered_and_only_a_handshake_is_switched() {
    let seeds = seeds::requests();
    play("handshake", targets::handshake, |random| {
        let mut request = random.mutated(&seeds);
        if random.one_in(4) {
            request.extend(seeds::frames(random));
        }
        request
    });
}

#[test]
fn a_proxys_header_is_found_where_it_ends() {
    let seeds = seeds::proxy_headers();
    play("proxy_protocol", targets::proxy_protocol, |random| random.mutated(&seeds));
}

#[test]
fn the_settings_of_an_upgrade_are_read_bit_by_bit() {
    play("settings", targets::settings, seeds::settings_fields);
}

#[test]
fn the_gate_opens_at_the_last_byte_of_a_preface() {
    play("gate", targets::gate, seeds::prefaces);
}

#[test]
fn the_frames_that_pass_are_counted_the_same_however_they_are_cut() {
    play("frames", targets::frames, seeds::http2_frames);
}

#[test]
fn whatever_is_said_over_http2_is_answered_or_has_had_enough() {
    play("http2", targets::http2, seeds::http2_frames);
}
