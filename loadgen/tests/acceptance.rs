//! `loadgen selftest`, case by case: the generator against the oracle, whose faults are known.
//!
//! They take their turns, because each of them measures time.

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
};

static TURN: Mutex<()> = Mutex::new(());

fn selftest(arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("selftest").args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

macro_rules! cases {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
                let (holds, said) = selftest(&[stringify!($name)]);
                assert!(holds && said.contains("1 of 1 cases hold"), "{said}");
            }
        )*

        #[test]
        fn all_cases_are_here() {
            assert_eq!(selftest(&["--list"]).1.split_whitespace().collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

cases! {
    t1_a_stall_counts_from_the_intended_time
    t1b_so_does_what_had_no_room
    t1c_a_closed_loop_says_what_it_does_not_see
    t2_what_is_never_answered_is_in_the_histogram
    t3_a_dead_server_has_no_latency
    t4_our_own_stall_is_ours
    t5_we_see_what_the_server_did_and_a_little_more
    t6_nothing_is_faster_than_the_server
    t7_a_queue_is_seen_as_it_was
    t8_the_rate_is_what_was_asked_for_or_it_is_said
    t11_every_fault_is_counted_exactly
    t11_a_handshake_that_is_wrong_is_refused_by_name
    t12_only_the_phase_that_is_slow_looks_slow
    t12_a_full_backlog_shows_in_the_connect_and_in_the_kernels_counters
    t13_a_storm_counts_from_the_intended_connect
    t14_a_fan_out_knows_who_has_not_heard_it
    t15_slow_readers_have_figures_of_their_own
    t16_connections_come_from_many_addresses
    t19_warm_up_is_excluded_by_the_intended_time
    t20_what_times_out_is_an_error_and_in_the_histogram
    t21_a_server_that_cannot_keep_up_is_said_to_on_the_first_line
    t22_a_seed_decides_everything_and_is_recorded
    t23_exit_codes_are_a_contract
    t9_the_tool_adds_little
    t17_a_search_finds_the_edge
    ping_keeps_connections_alive
    reconnect_opens_what_the_server_ends
    t10_files_add_up_to_what_was_printed
}
