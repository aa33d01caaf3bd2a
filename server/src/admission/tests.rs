use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn one_connection_alone_leaves_room_for_another() {
    let shared = Admission::new(64 * MIB, MIB);
    let mut only = Account::new(shared.clone());
    for _ in 0..32 {
        let _ = only.charge(MIB).unwrap();
    }
    assert_eq!(only.charge(1), Err(Refused::OverShare));
    let mut next = Account::new(shared.clone());
    let _ = next.charge(32 * MIB).unwrap();
    assert_eq!(
        Account::new(shared.clone()).charge(1),
        Err(Refused::Exhausted)
    );
    drop((only, next));
    assert_eq!(shared.value_bytes(), 0);
}

#[test]
fn a_greedy_connection_is_held_to_its_share_once_others_hold_bytes() {
    let shared = Admission::new(60 * MIB, MIB);
    let (mut greedy, mut modest) = (Account::new(shared.clone()), Account::new(shared.clone()));
    let first = greedy.charge(11 * MIB).unwrap();
    for _ in 11..30 {
        let _ = greedy.charge(MIB).unwrap();
    }
    let _ = modest.charge(MIB).unwrap();
    assert_eq!(greedy.charge(MIB), Err(Refused::OverShare));
    greedy.release(first);
    let _ = modest.charge(19 * MIB).unwrap();
    let _ = greedy.charge(MIB).unwrap();
    assert_eq!(greedy.charge(1), Err(Refused::OverShare));
    assert_eq!(modest.charge(1), Err(Refused::OverShare));
}

#[test]
fn a_value_above_the_whole_capacity_is_charged_as_the_capacity_and_gives_back_as_much() {
    let shared = Admission::new(4 * MIB, MIB);
    let mut account = Account::new(shared.clone());
    let charge = account.charge(256 * MIB).unwrap();
    assert_eq!(account.value_bytes(), 4 * MIB);
    account.release(charge);
    assert_eq!((account.value_bytes(), shared.value_bytes()), (0, 0));
    let mut two = account.charge(MIB).unwrap();
    two.join(account.charge_after(256 * MIB));
    assert_eq!(shared.value_bytes(), 257 * MIB);
    account.release(two);
    assert_eq!((account.value_bytes(), shared.value_bytes()), (0, 0));
}

#[test]
fn reads_overdraw_once_and_then_wait_for_the_debt() {
    let shared = Admission::new(8 * MIB, MIB);
    let mut reader = Account::new(shared.clone());
    assert_eq!(reader.stall(), None);
    let paid = reader.charge_after(12 * MIB);
    let _ = reader.charge_after(4 * MIB);
    assert_eq!(reader.stall(), Some(Stall::Own));
    assert_eq!(Account::new(shared).stall(), Some(Stall::Others));
    reader.release(paid);
    assert_eq!(reader.stall(), None);
}

#[test]
fn what_a_drive_brings_is_charged_by_its_bound_until_its_size_is_known() {
    let shared = Admission::new(32 * MIB, MIB);
    let mut reader = Account::new(shared.clone());
    assert_eq!(reader.room(), Ok(16 * MIB));
    let expected: Vec<_> = (0..4).map(|_| reader.expect(4 * MIB)).collect();
    assert_eq!(reader.room(), Ok(0));
    let overdrawn = reader.expect(4 * MIB);
    assert_eq!(reader.stall(), Some(Stall::Own));
    let mut held: Vec<_> = expected
        .into_iter()
        .map(|expected| reader.settle(expected, 2 * MIB))
        .collect();
    assert_eq!(shared.value_bytes(), 12 * MIB);
    assert_eq!(reader.room(), Ok(4 * MIB));
    held.push(reader.settle(Charge::default(), MIB));
    reader.release(held.remove(0));
    assert_eq!(shared.value_bytes(), 11 * MIB);
    // A connection that ends holds what is still on its way.
    reader.clear();
    assert_eq!(shared.value_bytes(), 4 * MIB);
    reader.unmet(overdrawn);
    assert_eq!((reader.value_bytes(), shared.value_bytes()), (0, 0));
    let _ = reader.expect(MIB);
    drop(reader);
    assert_eq!(shared.value_bytes(), 0);
}

#[test]
fn a_lone_reader_has_sixteen_blocks_on_their_way_where_the_pool_is_256_mib() {
    let shared = Admission::new(128 * MIB, MIB);
    let mut reader = Account::new(shared.clone());
    let mut lookups = 0;
    while reader.stall().is_none() {
        let _ = reader.expect(4 * MIB);
        lookups += 1;
    }
    assert_eq!(lookups, 17);
    assert!(Account::new(shared).charge(32 * MIB).is_ok());
}

#[test]
fn what_comes_free_is_shared_by_those_that_wait_and_not_taken_by_the_first() {
    let shared = Admission::new(32 * MIB, MIB);
    let mut gone = Account::new(shared.clone());
    let _ = gone.charge(32 * MIB).unwrap();
    let mut waiting: Vec<_> = (0..7).map(|_| Account::new(shared.clone())).collect();
    for account in &mut waiting {
        assert_eq!(account.stall(), Some(Stall::Others));
    }
    drop(gone);
    // Seven that wait and one more: a share of 4 MiB each, whatever is free.
    let first = &mut waiting[0];
    let _ = first.charge(3 * MIB).unwrap();
    assert_eq!(first.stall(), None);
    let _ = first.charge_after(MIB);
    assert_eq!(first.stall(), Some(Stall::Own));
    assert_eq!(first.charge(MIB), Err(Refused::OverShare));
    // Those that give up, or end, leave theirs to the others.
    waiting[1..4].iter_mut().for_each(Account::gave_up);
    waiting.truncate(4);
    assert_eq!(waiting[0].stall(), None);
    assert_eq!(shared.waiters.load(Ordering::Relaxed), 0);
}

#[test]
fn control_bytes_are_bounded_over_all_connections() {
    let shared = Admission::new(MIB, 100);
    let (mut one, mut two) = (Account::new(shared.clone()), Account::new(shared.clone()));
    one.charge_control(80).unwrap();
    assert_eq!(two.charge_control(30), Err(Refused::Exhausted));
    one.release_control(80);
    two.charge_control(30).unwrap();
    assert_eq!(shared.control_bytes(), 30);
}

#[test]
fn giving_bytes_back_wakes_whoever_is_parked() {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let shared = Admission::new(MIB, MIB);
    let mut account = Account::new(shared.clone());
    let charge = account.charge(MIB).unwrap();
    let count = Arc::new(Count(AtomicU32::new(0)));
    shared.park(1, &Waker::from(count.clone()));
    account.release(charge);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[test]
fn whose_connection_was_opened_first_is_woken_first() {
    use std::task::Wake;
    struct Note(u64, Arc<Mutex<Vec<u64>>>);
    impl Wake for Note {
        fn wake(self: Arc<Self>) {
            self.1.lock().push(self.0);
        }
    }
    let shared = Admission::new(MIB, MIB);
    let mut account = Account::new(shared.clone());
    let charge = account.charge(MIB).unwrap();
    let woken = Arc::new(Mutex::new(Vec::new()));
    for number in [7, 3, 9, 3, 1] {
        let note = Arc::new(Note(number, woken.clone()));
        shared.park(number, &Waker::from(note));
    }
    account.release(charge);
    assert_eq!(*woken.lock(), [1, 3, 7, 9]);
}

#[test]
fn pressure_is_what_others_cause_and_passes() {
    let second = 1_000_000_000;
    let shared = Admission::new(8 * MIB, MIB);
    let mut alone = Account::new(shared.clone());
    let _ = alone.charge(4 * MIB).unwrap();
    assert_eq!(alone.charge(4 * MIB), Err(Refused::OverShare));
    assert!(
        !shared.was_pressed(clock::now(), second),
        "it holds itself up"
    );
    let _ = alone.charge_after(4 * MIB);
    assert_eq!(
        Account::new(shared.clone()).charge(MIB),
        Err(Refused::Exhausted)
    );
    let now = clock::now();
    assert!(shared.was_pressed(now, second));
    assert!(!shared.was_pressed(Tick(now.0 + 2 * second), second));
}
