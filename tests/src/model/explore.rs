//! Breadth first through all states; a path to the first that breaks an invariant, and those from
//! which nobody can ever serve again (AG EF, by a backward search).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use base::rules::Rules;

use super::steps::Step;
use super::world::World;

/// What was found.
#[derive(Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// There are no others.
    pub exhausted: bool,
    /// What was broken, and a shortest way to it.
    pub violation: Option<(String, Vec<Step>)>,
    /// Shortest ways to the first states from which nobody can serve again.
    pub stuck: Vec<Vec<Step>>,
}

/// Ways to states without a way out that are kept.
const STUCK_MAX: usize = 3;

struct Print(xxhash_rust::xxh3::Xxh3);

impl Hasher for Print {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.digest()
    }
}

fn fingerprint(world: &World) -> u128 {
    let mut print = Print(xxhash_rust::xxh3::Xxh3::new());
    world.hash(&mut print);
    print.0.digest128()
}

/// Explores from `start` until all is seen or `limit` states are.
pub fn explore(start: World, rules: Rules, limit: usize) -> Explored {
    let mut ids: HashMap<u128, u32> = HashMap::new();
    let mut parents: Vec<(u32, Option<Step>)> = Vec::new();
    let mut good: Vec<bool> = Vec::new();
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut queue = std::collections::VecDeque::new();
    ids.insert(fingerprint(&start), 0);
    parents.push((0, None));
    good.push(start.is_good());
    queue.push_back((0u32, start));
    let mut violation = None;
    let mut expanded = 0usize;
    'all: while let Some((id, world)) = queue.pop_front() {
        if parents.len() > limit {
            break;
        }
        expanded += 1;
        for step in world.steps() {
            let mut next = world.clone();
            let result = catch_unwind(AssertUnwindSafe(|| next.take(step, rules)));
            let broken = match result {
                Ok(()) => next.violation(),
                Err(panic) => Some(format!("assert: {}", text_of(panic.as_ref()))),
            };
            if let Some(text) = broken {
                let mut path = path_to(&parents, id);
                path.push(step);
                violation = Some((text, path));
                break 'all;
            }
            let print = fingerprint(&next);
            let to = match ids.get(&print) {
                Some(known) => *known,
                None => {
                    let new = u32::try_from(parents.len()).expect("bounded");
                    ids.insert(print, new);
                    parents.push((id, Some(step)));
                    good.push(next.is_good());
                    queue.push_back((new, next));
                    new
                }
            };
            if !step.is_fault() && to != id {
                edges.push((to, id));
            }
        }
    }
    let exhausted = violation.is_none() && queue.is_empty();
    let states = parents.len();
    let stuck = if violation.is_none() { stuck(&good, edges, expanded) } else { Vec::new() };
    let stuck = stuck.into_iter().take(STUCK_MAX).map(|id| path_to(&parents, id)).collect();
    Explored { states, exhausted, violation, stuck }
}

/// The states on a way, one line each.
pub fn replay(mut world: World, path: &[Step], rules: Rules) -> Vec<String> {
    let mut lines = Vec::new();
    for step in path {
        let message = world.next_message(*step).unwrap_or_default();
        let result = catch_unwind(AssertUnwindSafe(|| world.take(*step, rules)));
        lines.push(format!("{step:?} {message}"));
        for side in [0, 1] {
            lines.push(format!("    {side}: {}", world.describe(side)));
        }
        if result.is_err() {
            lines.push("an assert of a core".to_owned());
            break;
        }
    }
    lines
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_default()
}

fn stuck(good: &[bool], mut edges: Vec<(u32, u32)>, expanded: usize) -> Vec<u32> {
    edges.sort_unstable();
    let mut alive: Vec<bool> = good.to_vec();
    // What was not looked at may go on.
    alive[expanded..].fill(true);
    let mut work: Vec<u32> =
        (0..).zip(&alive).filter(|(_, alive)| **alive).map(|(id, _)| id).collect();
    while let Some(id) = work.pop() {
        let from = edges.partition_point(|(to, _)| *to < id);
        for (_, before) in edges[from..].iter().take_while(|(to, _)| *to == id) {
            if !alive[*before as usize] {
                alive[*before as usize] = true;
                work.push(*before);
            }
        }
    }
    (0..).zip(&alive).filter(|(_, alive)| !**alive).map(|(id, _)| id).collect()
}

fn path_to(parents: &[(u32, Option<Step>)], id: u32) -> Vec<Step> {
    let mut path = Vec::new();
    let mut at = id;
    while let (before, Some(step)) = parents[at as usize] {
        path.push(step);
        at = before;
    }
    path.reverse();
    path
}
