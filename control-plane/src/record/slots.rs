//! Two slots in each of two places: which record counts at the start, and where the next one goes.
//!
//! Faults assumed: a crash tears at most one slot of one place; a whole place may be lost.
//! Invariants: I8. A bad pair never falls back silently to its older slot: an older record may
//! have more rights than a newer one (PROTOCOL 2.14 no. 13).

use super::NodeRecord;
use super::assess::Amnesia;

/// What stands in one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotRead {
    /// A record that passes every check.
    Valid(Box<NodeRecord>),
    /// Anything else.
    Bad,
}

/// What one place holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlaceRead {
    /// The file is not there.
    Absent,
    /// The file could not be read.
    Unreadable {
        /// What the system said.
        why: String,
    },
    /// Its two slots.
    Slots([SlotRead; 2]),
}

impl PlaceRead {
    fn records(&self) -> impl Iterator<Item = (usize, &NodeRecord)> {
        let slots = match self {
            Self::Slots(slots) => slots.as_slice(),
            Self::Absent | Self::Unreadable { .. } => &[],
        };
        slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            SlotRead::Valid(record) => Some((index, record.as_ref())),
            SlotRead::Bad => None,
        })
    }

    fn valid_count(&self) -> usize {
        self.records().count()
    }

    /// The slot that the next record goes over: a bad one, else the older one.
    fn older_slot(&self) -> usize {
        let newest = self.records().max_by_key(|(_, record)| record.record_seq);
        newest.map_or(0, |(index, _)| 1 - index)
    }
}

/// The record that counts, and whether it may be trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Highest record_seq of all valid slots.
    pub record: NodeRecord,
    /// Why it is not trusted; empty if it is.
    pub amnesia: Vec<Amnesia>,
    /// Where the next one goes.
    pub plan: SlotPlan,
}

/// Chooses. `None` if no slot of any place is valid.
pub fn choose(places: &[PlaceRead; 2]) -> Option<Chosen> {
    // Of two with the same number the one that says `single` counts: it was written second,
    // when the other place was found to be lost.
    let (holder, best) = places
        .iter()
        .enumerate()
        .flat_map(|(place, read)| read.records().map(move |(_, record)| (place, record)))
        .max_by_key(|(_, record)| (record.record_seq, record.single))?;
    let mut amnesia = Vec::new();
    if best.single {
        if places[holder].valid_count() < 2 {
            amnesia.push(Amnesia::BadSlots);
        }
    } else {
        for (place, read) in places.iter().enumerate() {
            if read.valid_count() == 0 {
                let why = match read {
                    PlaceRead::Absent => "the file is not there".to_owned(),
                    PlaceRead::Unreadable { why } => why.clone(),
                    PlaceRead::Slots(_) => "both of its slots are damaged".to_owned(),
                };
                amnesia.push(Amnesia::PlaceLost { place, why });
            }
        }
        if amnesia.is_empty() && places.iter().all(|read| read.valid_count() < 2) {
            amnesia.push(Amnesia::BadSlots);
        }
    }
    let worse = usize::from(places[1].valid_count() < places[0].valid_count());
    let plan = SlotPlan {
        first: if best.single { 1 - holder } else { worse },
        next: places.each_ref().map(PlaceRead::older_slot),
        slots: places.each_ref().map(|read| if read.valid_count() == 0 { 2 } else { 1 }),
        lost: [false, false],
    };
    Some(Chosen { record: best.clone(), amnesia, plan })
}

/// One write of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotWrite {
    /// 0 or 1, in the order of `record_dirs`.
    pub place: usize,
    /// 0 or 1.
    pub slot: usize,
    /// What the record's `single` is to say.
    pub single: bool,
}

/// Where records go while the node runs: to one place, then to the other, each over its older slot; to
/// both slots of a place that held nothing, as a place with one good slot counts as damaged; if a
/// place fails, to both slots of the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPlan {
    /// The place that has a bad slot, or was lost: were the other one written first, a crash there
    /// would leave no place whole.
    first: usize,
    next: [usize; 2],
    /// How many slots of each place the next record goes to.
    slots: [usize; 2],
    lost: [bool; 2],
}

impl SlotPlan {
    /// After `stretch init` wrote slot 0 and then slot 1 of both places.
    pub const FRESH: Self = Self { first: 0, next: [0, 0], slots: [1, 1], lost: [false, false] };

    /// The writes of the next record, in order. Each must be durable before the next begins; the
    /// record counts when all are. With both places lost there is nothing to lose: both are tried
    /// again.
    pub fn begin(&mut self) -> Vec<SlotWrite> {
        if self.lost == [true, true] {
            self.lost = [false, false];
        }
        self.writes()
    }

    /// A write failed: its place is left out until the next start, and these writes take the place
    /// of those that were left. None: neither place takes the record.
    pub fn failed(&mut self, write: SlotWrite) -> Vec<SlotWrite> {
        self.lost[write.place] = true;
        self.writes()
    }

    fn writes(&self) -> Vec<SlotWrite> {
        match self.lost {
            [false, false] => {
                [self.first, 1 - self.first].map(|place| self.in_place(place)).concat()
            }
            [true, false] => self.both_slots(1, true),
            [false, true] => self.both_slots(0, true),
            [true, true] => Vec::new(),
        }
    }

    fn in_place(&self, place: usize) -> Vec<SlotWrite> {
        let mut writes = self.both_slots(place, false);
        writes.truncate(self.slots[place]);
        writes
    }

    fn both_slots(&self, place: usize, single: bool) -> Vec<SlotWrite> {
        let first = self.next[place];
        [first, 1 - first].map(|slot| SlotWrite { place, slot, single }).to_vec()
    }

    /// A write is durable.
    pub fn written(&mut self, write: SlotWrite) {
        self.next[write.place] = 1 - write.slot;
        self.slots[write.place] = 1;
        if write.place != self.first {
            self.first = 0;
        }
    }
}
