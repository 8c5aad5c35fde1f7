//! Histories by hand, and random ones against a search through all orders.

use proptest::prelude::*;

use super::*;

fn operation(kind: Kind, invoke: u64, end: Option<u64>) -> Operation {
    Operation { kind, blocks: 0..1, invoke, end }
}

fn write(id: u64, invoke: u64, end: u64) -> Operation {
    operation(Kind::Write(id), invoke, Some(end))
}

fn read(id: u64, invoke: u64, end: u64) -> Operation {
    operation(Kind::Read(vec![Value(id)]), invoke, Some(end))
}

fn zero(invoke: u64, end: u64) -> Operation {
    operation(Kind::Zero, invoke, Some(end))
}

#[test]
fn good_histories_are_accepted() {
    let good: [&[Operation]; 12] = [
        &[],
        &[read(0, 1, 2)],
        &[write(1, 1, 2), read(1, 3, 4)],
        // Concurrent with the write, one read sees it and the other, which overlaps, does not.
        &[write(1, 1, 10), read(1, 2, 6), read(0, 3, 7)],
        &[write(1, 1, 10), write(2, 2, 9), read(1, 11, 12)],
        &[write(1, 1, 10), write(2, 2, 9), read(2, 11, 12)],
        // A write without an end is seen late, or never.
        &[operation(Kind::Write(1), 1, None), read(0, 2, 3), read(1, 9, 10)],
        &[operation(Kind::Write(1), 1, None), write(2, 2, 3), read(2, 4, 5)],
        &[operation(Kind::Write(1), 1, None), write(2, 2, 3), read(1, 4, 5)],
        &[write(1, 1, 2), zero(3, 4), read(0, 5, 6)],
        &[write(1, 1, 2), operation(Kind::Zero, 3, None), read(1, 4, 5), read(0, 6, 7)],
        // The zeroing falls between two writes, so both reads are good.
        &[write(1, 1, 3), zero(2, 5), read(0, 4, 6), write(2, 4, 7), read(2, 8, 9)],
    ];
    for history in good {
        assert!(check(history).is_ok(), "{}", check(history).unwrap_err().describe(history));
    }
}

#[test]
fn a_stale_read_is_found() {
    let history = [write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)];
    let found = check(&history).expect_err("stale");
    assert_eq!(found, Violation::Crossed { block: 0, one: [0, 2], other: [1, 1] });
    assert!(found.describe(&history).contains("operation 2 read #1"));
}

#[test]
fn a_lost_write_is_found() {
    let history = [write(1, 1, 2), read(0, 3, 4)];
    let found = check(&history).expect_err("lost");
    assert_eq!(found, Violation::NoZeroes { block: 0, read: 1, instead: Some(0) });
}

#[test]
fn a_dirty_read_that_vanishes_is_found() {
    let lost = operation(Kind::Write(1), 1, None);
    let history = [lost.clone(), read(1, 2, 3), read(0, 4, 5)];
    assert!(check(&history).is_err());
    let history = [write(2, 1, 2), lost, read(1, 3, 4), read(2, 5, 6)];
    assert!(check(&history).is_err());
}

#[test]
fn a_read_from_the_future_is_found() {
    let history = [read(1, 1, 2), write(1, 3, 4)];
    assert_eq!(check(&history), Err(Violation::FromTheFuture { block: 0, read: 0, write: 1 }));
}

#[test]
fn a_value_from_nowhere_is_found() {
    let found = Violation::FromNowhere { block: 0, read: 0, value: Value(9) };
    assert_eq!(check(&[read(9, 1, 2)]), Err(found));
}

#[test]
fn new_at_one_node_then_old_at_the_other_is_found() {
    // The write has not ended, but once one node has shown it the other may not go back.
    let history = [write(1, 1, 2), write(2, 3, 20), read(2, 4, 5), read(1, 6, 7)];
    assert!(check(&history).is_err());
    let history = [write(1, 1, 2), write(2, 3, 20), read(2, 4, 6), read(1, 5, 7)];
    assert!(check(&history).is_ok());
}

#[test]
fn two_observers_that_saw_two_writes_in_different_orders_are_found() {
    let writes = [write(1, 1, 9), write(2, 1, 9)];
    let one = [read(1, 2, 3), read(2, 4, 5)];
    let other = [read(2, 2, 3), read(1, 4, 5)];
    assert!(check(&[&writes[..], &one[..]].concat()).is_ok());
    assert!(check(&[&writes[..], &other[..]].concat()).is_ok());
    assert!(check(&[&writes[..], &one[..], &other[..]].concat()).is_err());
}

#[test]
fn zeros_come_back_only_with_a_zeroing_each() {
    let twice = |zeroings: &[Operation]| {
        let rest = [write(1, 1, 2), read(0, 3, 4), write(2, 5, 6), read(0, 7, 8)];
        check(&[zeroings, &rest[..]].concat()).is_ok()
    };
    assert!(!twice(&[zero(1, 9)]));
    assert!(twice(&[zero(1, 9), zero(1, 9)]));
    assert!(twice(&[operation(Kind::Zero, 1, None), operation(Kind::Zero, 3, None)]));
    assert!(!twice(&[operation(Kind::Zero, 1, None), operation(Kind::Zero, 9, None)]));
    assert!(twice(&[operation(Kind::MayZero, 1, Some(4)), operation(Kind::MayZero, 5, Some(8))]));
    assert!(!twice(&[operation(Kind::MayZero, 1, Some(4)), operation(Kind::MayZero, 2, Some(4))]));
}

#[test]
fn a_trim_that_did_nothing_is_accepted_and_one_that_comes_late_is_not() {
    let trim = operation(Kind::MayZero, 3, Some(4));
    assert!(check(&[write(1, 1, 2), trim.clone(), read(1, 5, 6)]).is_ok());
    assert!(check(&[write(1, 1, 2), trim.clone(), read(0, 5, 6)]).is_ok());
    assert!(check(&[write(1, 1, 2), trim, write(2, 5, 6), read(0, 7, 8)]).is_err());
}

#[test]
fn blocks_are_registers_of_their_own() {
    // Two requests over two blocks, seen in different orders on the two: PROTOCOL D1 allows it.
    let wide = |id| Operation { blocks: 0..2, ..write(id, 1, 9) };
    let seen = Operation {
        blocks: 0..2,
        kind: Kind::Read(vec![Value(1), Value(2)]),
        invoke: 10,
        end: Some(11),
    };
    assert_eq!(check(&[wide(1), wide(2), seen]), Ok(Summary { blocks: 2, block_operations: 6 }));
}

#[test]
fn many_operations_on_few_blocks_are_checked_quickly() {
    let mut operations = Vec::new();
    let mut holds = [0u64; 16];
    for step in 1..=300_000u64 {
        let block = (step * 7) % 16;
        let invoke = step * 10;
        let mut made = match step % 3 {
            0 => read(holds[block as usize], invoke, invoke + 9),
            1 => write(step, invoke, invoke + 9),
            _ => zero(invoke, invoke + 9),
        };
        holds[block as usize] = match made.kind {
            Kind::Write(id) => id,
            Kind::Zero => 0,
            Kind::Read(_) | Kind::MayZero => holds[block as usize],
        };
        made.blocks = block..block + 1;
        operations.push(made);
        // Writes without an end that nobody saw pile up, as after many crashes.
        if step % 100 == 0 {
            operations.push(Operation { blocks: 0..16, ..operation(Kind::Zero, invoke, None) });
            let lost = operation(Kind::Write(1_000_000 + step), invoke, None);
            operations.push(Operation { blocks: 0..16, ..lost });
        }
    }
    let summary = check(&operations).expect("written in order");
    assert_eq!(summary.block_operations, 300_000 + 2 * 3_000 * 16);
}

/// Tries every order: the definition itself.
fn has_an_order(operations: &[Operation], placed: u32, holds: Value) -> bool {
    let all = |mask: u32| (0..operations.len()).filter(move |index| mask & (1 << index) != 0);
    let rest = !placed & ((1u32 << operations.len()) - 1);
    let must = |index: &usize| {
        operations[*index].end.is_some() && operations[*index].kind != Kind::MayZero
    };
    if !all(rest).any(|index| must(&index)) {
        return true;
    }
    let before =
        |x: usize, y: usize| operations[x].end.is_some_and(|end| end < operations[y].invoke);
    all(rest).any(|next| {
        let held_up = all(rest).any(|other| other != next && must(&other) && before(other, next));
        let too_late = all(placed).any(|other| before(next, other));
        if held_up || too_late {
            return false;
        }
        let after = match &operations[next].kind {
            Kind::Read(values) if values[0] != holds => return false,
            Kind::Read(_) => holds,
            Kind::Write(id) => Value(*id),
            Kind::Zero | Kind::MayZero => Value::ZERO,
        };
        has_an_order(operations, placed | 1 << next, after)
    })
}

fn by_search(operations: &[Operation]) -> bool {
    let counted: Vec<Operation> = operations
        .iter()
        .filter(|operation| !matches!(operation.kind, Kind::Read(_)) || operation.end.is_some())
        .cloned()
        .collect();
    has_an_order(&counted, 0, Value::ZERO)
}

fn small_history(zeroing: bool) -> impl Strategy<Value = Vec<Operation>> {
    let one = (0u8..12, 0u64..4, 1u64..16, 0u64..8, 0u8..6);
    proptest::collection::vec(one, 1..9).prop_map(move |drawn| {
        let mut made = Vec::new();
        for (index, (what, seen, invoke, length, ending)) in drawn.into_iter().enumerate() {
            let kind = match what {
                0..4 => Kind::Write(index as u64 + 1),
                4..6 if zeroing => Kind::Zero,
                6..8 if zeroing => Kind::MayZero,
                _ => Kind::Read(vec![Value(seen)]),
            };
            made.push(operation(kind, invoke, (ending > 0).then_some(invoke + length)));
        }
        // Reads return zeros or what one of the writes wrote; seldom something else.
        let writes: Vec<u64> = made
            .iter()
            .filter_map(|operation| match operation.kind {
                Kind::Write(id) => Some(id),
                _ => None,
            })
            .collect();
        for operation in &mut made {
            if let Kind::Read(values) = &mut operation.kind {
                let seen = values[0].0 as usize;
                values[0] = Value(if seen == 0 { 0 } else { *writes.get(seen - 1).unwrap_or(&0) });
            }
        }
        made
    })
}

/// A history made by executing operations at one moment each, in a register that works.
fn executed_history() -> impl Strategy<Value = Vec<Operation>> {
    let one = (0u8..10, 1u64..2000, 0u64..60, 0u64..60, 0u8..8);
    proptest::collection::vec(one, 1..200).prop_map(|mut drawn| {
        drawn.sort_by_key(|(_, moment, ..)| *moment);
        let mut holds = Value::ZERO;
        let mut made = Vec::new();
        for (index, (what, moment, before, after, ending)) in drawn.into_iter().enumerate() {
            let happens = ending > 0;
            let kind = match what {
                0..3 => Kind::Write(index as u64 + 1),
                3 => Kind::Zero,
                4 => Kind::MayZero,
                _ => Kind::Read(vec![holds]),
            };
            // One that never ended may have happened or not.
            match kind {
                Kind::Write(id) if happens || after % 2 == 0 => holds = Value(id),
                Kind::Zero if happens || after % 2 == 0 => holds = Value::ZERO,
                Kind::MayZero if after % 2 == 0 => holds = Value::ZERO,
                _ => {}
            }
            let invoke = (moment * 10).saturating_sub(before * 10).max(1);
            made.push(operation(kind, invoke, happens.then_some(moment * 10 + after * 10)));
        }
        made
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn it_agrees_with_the_search_on_writes_and_reads(history in small_history(false)) {
        prop_assert_eq!(check(&history).is_ok(), by_search(&history), "{:#?}", check(&history));
    }

    #[test]
    fn it_agrees_with_the_search_on_zeroings_too(history in small_history(true)) {
        prop_assert_eq!(check(&history).is_ok(), by_search(&history), "{:#?}", check(&history));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_a_working_register_did_is_accepted(history in executed_history()) {
        let found = check(&history);
        prop_assert!(found.is_ok(), "{}", found.unwrap_err().describe(&history));
    }

    #[test]
    fn a_read_that_is_changed_to_a_superseded_value_is_found(
        history in executed_history(),
        id in 5000u64..6000,
    ) {
        // Two writes in a row, and then the first one's value again.
        let end = history.iter().filter_map(|o| o.end).chain(history.iter().map(|o| o.invoke));
        let end = end.max().unwrap_or(1);
        let mut history = history;
        history.push(write(id, end + 1, end + 2));
        history.push(write(id + 1000, end + 3, end + 4));
        history.push(read(id, end + 5, end + 6));
        prop_assert!(check(&history).is_err());
    }
}
