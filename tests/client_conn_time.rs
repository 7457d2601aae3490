//! What a connection does by the clock: idleness, age, the grace. The clock is paused, so that hours cost nothing and times
//! are exact. Dials and pings have files of their own.
//!
//! # grpc-go's rules of connectivity, and the tests that hold them
//!
//! | rule | test, in `client_conn.rs` or in the file named |
//! |---|---|
//! | a new one is Idle and does no I/O | `it_starts_idle_without_io_and_is_ready_after_the_first_call` |
//! | Ready only with the server's SETTINGS | `a_tcp_listener_that_says_nothing_is_never_ready`; `_dials`: `a_handshake_that_drips_is_ready_in_the_end_or_out_of_time` |
//! | a failed attempt is TransientFailure until one succeeds | `_dials`: `failed_attempts_are_made_again_after_pauses_from_one_second_to_two_minutes` |
//! | Ready lost is Idle: by the socket's end | `a_connection_whose_server_dies_is_idle_and_finds_the_server_when_it_is_back`; `_dials`: `failed_attempts_...` |
//! | by a GOAWAY | `a_goaway_makes_it_idle_at_once_and_open_streams_complete` |
//! | also when it is lost at once | no failure: `_dials`: `a_connection_that_is_lost_with_its_settings_is_no_failure_and_the_call_goes_to_the_next`; stronger, only once in a dial: `a_server_that_takes_leave_with_its_settings_each_time_is_a_failure_from_the_second_time_on` |
//! | by a ping without answer | `_keepalive`: `a_silent_server_with_a_call_open_is_pinged_and_lost_if_it_does_not_answer` |
//! | pauses of 1 s x 1.6, give or take 20 %, to 120 s; success begins anew | `_dials`: `failed_attempts_...` |
//! | an attempt may take 20 s, or as long as the pause | `_dials`: `an_attempt_lasts_twenty_seconds_or_as_long_as_the_pause_that_follows_it` |
//! | ResetConnectBackoff wakes at once | `_dials`: `reset_connect_backoff_ends_the_pause_at_once_and_begins_the_sequence_anew`; `a_retry_that_is_asked_for_as_soon_as_the_failure_is_seen_is_not_lost` |
//! | GetState neither blocks nor connects; Connect does not wait | `it_starts_idle_...`; `connect_dials_without_a_call_and_each_change_of_state_can_be_awaited` |
//! | WaitForStateChange returns at once if the state is another | `connect_dials_...` |
//! | idle for 30 min; never, if that is turned off | `half_an_hour_without_a_call_makes_it_idle_and_closes_the_socket`, `without_an_idle_timeout_it_stays_for_weeks`, here |
//! | an open call prevents it | `an_open_call_keeps_it_from_being_idle_and_so_does_the_body_of_a_response`, here |
//! | after a GOAWAY open streams finish | `a_goaway_...`; `_resends`: `a_request_above_a_goaways_last_stream_goes_to_the_next_connection_and_those_below_complete` |
//! | those above its last were not processed | the same |
//! | a second GOAWAY may only lower that | `_resends`: `a_second_goaway_with_a_lower_stream_gives_up_those_in_between`, `a_second_goaway_that_raises_its_stream_breaks_the_protocol_and_nothing_is_sent_again_for_it` |
//! | keepalive is off; it waits 20 s | `_keepalive`: `by_default_no_ping_is_sent_and_one_that_is_waits_twenty_seconds_for_its_answer` |
//! | its interval is 10 s at least | `_options`: `values_that_cannot_be_are_errors_that_name_their_option` |
//! | no ping without a stream, unless allowed | `_keepalive`: `no_ping_is_sent_while_no_call_is_open_and_one_at_once_when_a_call_is_after_long_silence`, `while_idle_an_unused_connection_is_pinged_too_and_lost_without_a_call` |
//! | a call on Idle or Connecting waits | `it_starts_idle_...`; `_dials`: `a_deadline_holds_while_a_call_waits_for_a_dial_and_the_dial_goes_on` |
//! | on TransientFailure it fails at once, unless it waits for Ready | `_dials`: `in_an_outage_a_call_that_waits_for_ready_keeps_its_deadline_and_one_that_does_not_fails_at_once`; `_options`: `a_call_that_waits_for_ready_is_served_when_the_server_comes` |
//! | Close is Shutdown, for good | `close_is_shutdown_for_good_and_breaks_off_what_runs` |
//! | at most 100 streams until SETTINGS tell | stronger, none: `_faults`: `nothing_of_a_call_is_sent_before_the_servers_settings_and_then_as_many_as_these_allow` |

mod support;

use std::time::Duration;

use cenote::grpc::ConnectivityState::{Connecting, Idle, Ready, Shutdown, TransientFailure};
use cenote::grpc::Error;
use cenote_proto::StreamHelloRequest;
use cenote_proto::greeter_client::GreeterClient;
use support::memory::*;
use support::{cause, hello};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

// ── idleness ──

#[tokio::test(start_paused = true)]
async fn half_an_hour_without_a_call_makes_it_idle_and_closes_the_socket() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let states = States::of(&conn);
    conn.connect();
    let mut wire = server.accept(&[]).await;
    // The time counts from the last call, not from the dial.
    sleep(20 * MINUTE).await;
    served(&conn, &mut wire).await;
    let start = Instant::now();
    wire.closed().await;
    assert_about(start.elapsed(), 30 * MINUTE);
    settle().await;
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle]);
    assert_about(states.last_change(), 50 * MINUTE);
    sleep(HOUR).await;
    assert!(server.is_empty(), "nobody needs another as yet");
    let next = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    wire.answer(stream, "anew").await;
    assert_eq!(reply(next).await, "anew");
}

#[tokio::test(start_paused = true)]
async fn half_an_hour_without_a_call_ends_the_attempts_of_one_that_cannot_connect_too() {
    let (builder, server) = in_memory();
    drop(server);
    let conn = builder.build().unwrap();
    let states = States::of(&conn);
    conn.connect();
    sleep(15 * MINUTE).await;
    // A call that fails is a call.
    failure(call(&conn, hello("ada"))).await;
    sleep(29 * MINUTE).await;
    assert_eq!(conn.state(), TransientFailure);
    sleep(4 * MINUTE).await;
    assert_eq!(conn.state(), Idle);
    assert_eq!(states.seen(), [Idle, Connecting, TransientFailure, Idle]);

    let mut patient = tonic::Request::new(hello("ada"));
    patient.extensions_mut().insert(cenote::grpc::WaitForReady(true));
    let patient = call(&conn, patient);
    sleep(2 * HOUR).await;
    assert_eq!(conn.state(), TransientFailure, "a call waits");
    patient.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_attempt_takes_longer_than_the_idle_timeout_is_told_what_that_came_to() {
    let (builder, mut server) = in_memory();
    let conn = builder.idle_timeout(10 * SECOND).connect_timeout(20 * SECOND).build().unwrap();
    let states = States::of(&conn);
    let start = Instant::now();
    let waiting = call(&conn, hello("ada"));
    let _mute = server.dialed().await;
    let status = failure(waiting).await;
    assert_about(start.elapsed(), 20 * SECOND);
    assert_eq!(dial_failure(&status).0, cenote::grpc::DialPhase::Settings);
    assert_eq!(conn.state(), TransientFailure);
    sleep(MINUTE).await;
    assert_eq!(states.seen(), [Idle, Connecting, TransientFailure, Idle]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_connected_and_never_used_is_idle_after_the_same_time() {
    let (builder, mut server) = in_memory();
    let conn = builder.idle_timeout(MINUTE).build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    let start = Instant::now();
    wire.closed().await;
    assert_about(start.elapsed(), MINUTE);
    settle().await;
    assert_eq!(conn.state(), Idle);
}

#[tokio::test(start_paused = true)]
async fn an_open_call_keeps_it_from_being_idle_and_so_does_the_body_of_a_response() {
    let (builder, mut server) = in_memory();
    let conn = builder.build().unwrap();
    let states = States::of(&conn);
    let open = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (stream, _) = wire.request().await;
    sleep(3 * HOUR).await;
    assert_eq!(conn.state(), Ready);
    wire.answer(stream, "long").await;
    assert_eq!(reply(open).await, "long");

    let mut client = GreeterClient::new(conn.clone());
    let many = StreamHelloRequest { name: "ada".to_owned(), count: 2, pause_ms: 0 };
    let stream = tokio::spawn(async move { client.stream_hello(many).await });
    let (id, _) = wire.request().await;
    wire.answer_head(id).await;
    let mut body = stream.await.unwrap().unwrap().into_inner();
    sleep(3 * HOUR).await;
    wire.answer_message(id, "one").await;
    assert_eq!(body.message().await.unwrap().unwrap().message, "one");
    assert_eq!(conn.state(), Ready);
    drop(body);
    let start = Instant::now();
    wire.closed().await;
    assert_about(start.elapsed(), 30 * MINUTE);
    settle().await;
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle]);
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_it_stays_for_weeks() {
    let (builder, mut server) = in_memory();
    let conn = builder.idle_timeout(None).build().unwrap();
    let states = States::of(&conn);
    conn.connect();
    let mut wire = server.accept(&[]).await;
    wire.acknowledged().await;
    sleep(21 * 24 * HOUR).await;
    served(&conn, &mut wire).await;
    assert_eq!(states.seen(), [Idle, Connecting, Ready]);
    assert!(server.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_keeps_an_idle_socket_for_a_second_at_most() {
    // What the client says first fits in, when its preface has been read; its goodbye does not.
    let (builder, mut server) = in_memory_with_capacity(64);
    let conn = builder.idle_timeout(MINUTE).build().unwrap();
    conn.connect();
    let mut wire = server.accept(&[]).await;
    sleep(MINUTE + SECOND / 2).await;
    assert_eq!(conn.state(), Idle);
    sleep(SECOND).await;
    timeout(Duration::ZERO, wire.closed()).await.expect("closed already");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_keeps_no_socket_that_is_old_or_was_told_goodbye() {
    for by_age in [false, true] {
        let (builder, mut server) = in_memory_with_capacity(64);
        let builder = if by_age { builder.max_connection_age(MINUTE) } else { builder };
        let conn = builder.idle_timeout(None).build().unwrap();
        conn.connect();
        let mut wire = server.accept(&[]).await;
        settle().await;
        if by_age {
            sleep(67 * SECOND).await;
        } else {
            wire.goaway(0, support::frames::NO_ERROR, b"").await;
            sleep(2 * SECOND).await;
        }
        assert_eq!(conn.state(), Idle);
        timeout(Duration::ZERO, wire.closed()).await.expect("closed already");
    }
}

// ── age ──

#[tokio::test(start_paused = true)]
async fn at_its_age_give_or_take_a_tenth_it_is_idle_and_the_next_call_dials() {
    let (builder, mut server) = in_memory();
    let conn = builder.max_connection_age(100 * SECOND).build().unwrap();
    let mut ages = Vec::new();
    for _ in 0..50 {
        conn.connect();
        let mut wire = server.accept(&[]).await;
        let born = Instant::now();
        sleep(80 * SECOND).await;
        served(&conn, &mut wire).await;
        wire.closed().await;
        ages.push(born.elapsed().as_secs_f64());
        settle().await;
        assert_eq!(conn.state(), Idle);
    }
    let (least, most) = ages.iter().fold((f64::MAX, 0f64), |(a, b), age| (a.min(*age), b.max(*age)));
    assert!(least >= 89.9 && most <= 110.1, "{ages:?}");
    assert!(most - least > 5.0, "connections of one age would all dial at once: {ages:?}");
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_an_old_connection_completes_there_while_new_calls_go_to_another() {
    let (builder, mut server) = in_memory();
    let conn = builder.max_connection_age(MINUTE).build().unwrap();
    let states = States::of(&conn);
    let early = call(&conn, hello("ada"));
    let mut old = server.accept(&[]).await;
    let (stream, _) = old.request().await;
    sleep(70 * SECOND).await;
    assert_eq!(conn.state(), Idle);
    let late = call(&conn, hello("bob"));
    let mut new = server.accept(&[]).await;
    let (newer, _) = new.request().await;
    new.answer(newer, "late").await;
    assert_eq!(reply(late).await, "late");
    assert!(!early.is_finished());
    old.answer(stream, "early").await;
    assert_eq!(reply(early).await, "early");
    timeout(SECOND, old.closed()).await.expect("it goes with its last call");
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Idle, Connecting, Ready]);
}

// ── the grace ──

#[tokio::test(start_paused = true)]
async fn in_its_grace_a_closed_connection_serves_what_runs_and_cuts_at_the_end_what_still_does() {
    let (builder, mut server) = in_memory();
    let conn = builder.close_grace(30 * SECOND).build().unwrap();
    let states = States::of(&conn);
    let quick = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    let (first, _) = wire.request().await;
    let slow = call(&conn, hello("bob"));
    wire.request().await;
    conn.close();
    let start = Instant::now();
    assert!(matches!(cause(&failure(call(&conn, hello("eve"))).await), Error::Closed));
    assert_about(start.elapsed(), Duration::ZERO);
    sleep(29 * SECOND).await;
    wire.answer(first, "in time").await;
    assert_eq!(reply(quick).await, "in time");
    let status = failure(slow).await;
    assert_about(start.elapsed(), 30 * SECOND);
    assert_eq!(status.code(), Code::Cancelled);
    assert!(matches!(cause(&status), Error::Closed), "{status:?}");
    timeout(SECOND, wire.closed()).await.expect("the socket is closed");
    assert_eq!(states.seen(), [Idle, Connecting, Ready, Shutdown]);
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_close_cuts_at_once_also_a_dial_and_a_pause() {
    let (builder, mut server) = in_memory();
    let conn = builder.clone().build().unwrap();
    let open = call(&conn, hello("ada"));
    let mut wire = server.accept(&[]).await;
    wire.request().await;
    let start = Instant::now();
    conn.close();
    assert!(matches!(cause(&failure(open).await), Error::Closed));
    wire.closed().await;
    assert_about(start.elapsed(), Duration::ZERO);

    let dials = builder.clone().build().unwrap();
    let waits = call(&dials, hello("ada"));
    let mut mute = server.dialed().await;
    dials.close();
    assert!(matches!(cause(&failure(waits).await), Error::Closed));
    hung_up(&mut mute).await;
    assert_about(start.elapsed(), Duration::ZERO);

    let pauses = builder.build().unwrap();
    pauses.connect();
    server.hang_up().await;
    settle().await;
    assert_eq!(pauses.state(), TransientFailure);
    pauses.close();
    sleep(HOUR).await;
    assert_eq!(pauses.state(), Shutdown);
    assert!(server.is_empty(), "it does not dial any more");
}

/// In each stage of a connection, with calls open: idle, dialing, pausing, Ready, and Ready with another link running out.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_or_dropped_leaves_no_task() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for close in [true, false] {
        for stage in 0..5 {
            let (builder, mut server) = in_memory();
            let conn = builder.close_grace(if close { SECOND } else { Duration::ZERO }).build().unwrap();
            let mut calls = Vec::new();
            let mut wires = Vec::new();
            let mut mute = None;
            match stage {
                0 => {}
                1 => {
                    calls.push(call(&conn, hello("ada")));
                    mute = Some(server.dialed().await);
                }
                2 => {
                    conn.connect();
                    server.hang_up().await;
                }
                _ => {
                    for _ in 3..=stage {
                        calls.push(call(&conn, hello("ada")));
                        let mut wire = server.accept(&[]).await;
                        let (stream, _) = wire.request().await;
                        if stage > 3 && wires.is_empty() {
                            wire.goaway(stream, support::frames::NO_ERROR, b"").await;
                            settle().await;
                        }
                        wires.push(wire);
                    }
                }
            }
            settle().await;
            assert!(
                stage == 0 || tasks() > before + calls.len(),
                "stage {stage}: a task of the connection's own"
            );
            if close {
                conn.close();
            } else {
                // A call is a handle, too.
                calls.iter().for_each(|call| call.abort());
                drop(conn);
            }
            for call in calls {
                let _ = call.await;
            }
            sleep(2 * SECOND).await;
            assert_eq!(tasks(), before, "stage {stage}, {}", if close { "closed" } else { "dropped" });
            drop((wires, mute, server));
        }
    }
}

// ── the table ──

#[test]
fn the_table_names_tests_that_there_are() {
    let files = [
        include_str!("client_conn.rs"),
        include_str!("client_conn_dials.rs"),
        include_str!("client_conn_faults.rs"),
        include_str!("client_conn_keepalive.rs"),
        include_str!("client_conn_options.rs"),
        include_str!("client_conn_resends.rs"),
        include_str!("client_conn_time.rs"),
    ];
    let table = include_str!("client_conn_time.rs").lines().filter(|line| line.starts_with("//! |"));
    let names: Vec<_> = table.flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
    // Neither the file's name, nor the beginning of a name that stands further up.
    let names = names.into_iter().filter(|name| !name.starts_with('_') && !name.contains('.'));
    let missing: Vec<_> =
        names.filter(|name| !files.iter().any(|file| file.contains(&format!("fn {name}(")))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
