//! How many answers are found, where questions are asked as people ask them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Mutex,
};

use serde_json::json;

use super::{client_in, file, layer, owner, setup, used};
use crate::accept::{
    client::Client,
    load::{Dice, workers},
    scenario::{Broken, Seen},
    stage::{Instance, Person, Stage},
};

/// The workload as it is declared.
const QUESTIONS: usize = 1_000;
const PROJECTS: usize = 100;
const EXPONENT: f64 = 1.1;
/// One operation in so many is a write.
const WRITES: u64 = 20;
/// Callers, each of whom has projects of its own.
const CALLERS: usize = 8;

/// Draws ranks from 0 on as Zipf says.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += (rank as f64).powf(-EXPONENT);
                sum
            })
            .collect();
        Self(sums.into_iter().map(|part| part / sum).collect())
    }

    fn draw(&self, dice: &mut Dice) -> usize {
        let at = dice.share();
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}

/// What is done, in which project.
enum Operation {
    Ask { question: String, is_counted: bool },
    Write { text: String },
}

/// One way to spread questions and writes.
#[derive(Clone, Copy)]
struct Workload {
    projects: usize,
    /// No question comes twice.
    is_control: bool,
    /// Operations before those that are counted, of which only what they would leave kept is asked for; and those.
    before: usize,
    counted: usize,
}

impl Workload {
    /// What is done in each project, in its order. First it is brought to where the operations before would have left it.
    fn draw(self, seed: u64) -> Vec<VecDeque<Operation>> {
        let mut of_project: Vec<VecDeque<Operation>> = (0..self.projects).map(|_| VecDeque::new()).collect();
        let mut kept: Vec<BTreeSet<String>> = vec![BTreeSet::new(); self.projects];
        let (mut dice, zipf) = (Dice::new(seed, 9), Zipf::new(QUESTIONS));
        for number in 0..self.before + self.counted {
            if number == self.before {
                for (operations, kept) in of_project.iter_mut().zip(&mut kept) {
                    let asks = std::mem::take(kept).into_iter();
                    operations.extend(asks.map(|question| Operation::Ask { question, is_counted: false }));
                }
            }
            let is_counted = number >= self.before;
            let rank = zipf.draw(&mut dice);
            let anywhere = dice.roll(self.projects as u64) as usize;
            let is_write = dice.roll(WRITES) == 0;
            // Ranks lie in the projects in an order of their own: no project has the ten most asked ones.
            let place = if is_write { anywhere } else { rank.wrapping_mul(7_919) % self.projects };
            let question = if self.is_control { format!("u{number}") } else { format!("t{rank}") };
            match (is_write, is_counted) {
                (true, true) => {
                    of_project[place].push_back(Operation::Write { text: format!("note {number}") });
                }
                (true, false) => kept[place].clear(),
                (false, true) => of_project[place].push_back(Operation::Ask { question, is_counted }),
                (false, false) => {
                    kept[place].insert(question);
                }
            }
        }
        of_project
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    asked: u64,
    local: u64,
    shared: u64,
    failed: u64,
}

impl Found {
    fn rate(self) -> f64 {
        if self.asked == 0 {
            return f64::NAN;
        }
        100.0 * (self.local + self.shared) as f64 / self.asked as f64
    }
}

/// R9. Questions about memories at two instances in turn, of which 95 in 100 read and 5 write; all answers depend on the
/// memories of their project, so that a write ends all that is kept of it.
pub(super) async fn rate(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (before, counted) = stage.profile.pick((20_000, 2_500), (20_000, 30_000));
    let redis = stage.redis().await?;
    let ada = owner(stage, "r9", PROJECTS * 2 + 1);
    let shared = setup(&file(stage, "r9")?, redis.url(), ada);
    let (a, b) = tokio::try_join!(stage.start(shared.clone()), stage.start(shared))?;
    let (declared, rest) = ada.projects.split_at(PROJECTS);
    let (unrepeated, single) = rest.split_at(PROJECTS);
    let mut first = (client_in(&a, ada, single[0]).await?, client_in(&b, ada, single[0]).await?);
    used(&mut first.0, &mut first.1, "r9", super::USED_MAX).await?;
    used(&mut first.1, &mut first.0, "r9 back", super::USED_MAX).await?;

    let all = Workload { projects: PROJECTS, is_control: false, before, counted };
    let control = Workload { is_control: true, before: 0, counted: counted / 5, ..all };
    let one = Workload { projects: 1, counted: counted / 5, ..all };
    let mut failed = 0;
    for (figure, workload, projects, what) in [
        ("hit_rate", all, declared, "100 projects"),
        ("control", control, unrepeated, "100 projects, no question twice"),
        ("one_project", one, single, "one project, where each write ends all that is kept"),
    ] {
        let found = run(stage, [&a, &b], ada, projects, workload).await?;
        failed += found.failed;
        seen.figure(figure, found.rate());
        seen.note(format!(
            "{what}: {} questions, {} answered from memory, {} from Redis: {:.1} %.",
            found.asked,
            found.local,
            found.shared,
            found.rate()
        ));
    }
    seen.check("no call failed", failed == 0, "0", failed.to_string());
    seen.note(format!(
        "{counted} operations that count, as if {before} had gone before: what those would have left kept was asked for first, and \
         does not count. From nothing, the first questions are found of none; after some ten thousand that makes no difference."
    ));
    Ok(())
}

async fn run(
    stage: &Stage,
    instances: [&Instance; 2],
    ada: Person,
    projects: &[&'static str],
    workload: Workload,
) -> Result<Found, Broken> {
    // Each caller has every eighth project, with a client at each instance.
    let mut shares: Vec<Vec<(Client, Client, VecDeque<Operation>)>> =
        (0..CALLERS).map(|_| Vec::new()).collect();
    for (number, operations) in workload.draw(stage.seed).into_iter().enumerate() {
        let at_a = client_in(instances[0], ada, projects[number]).await?;
        let at_b = client_in(instances[1], ada, projects[number]).await?;
        shares[number % CALLERS].push((at_a, at_b, operations));
    }
    let shares: Vec<_> = shares.into_iter().map(|share| Mutex::new(Some(share))).collect();
    let found = workers(CALLERS, |number| {
        let share = shares[number].lock().ok().and_then(|mut share| share.take());
        ask_all(share.unwrap_or_default())
    })
    .await;
    let mut sum = Found::default();
    for found in found {
        let found = found?;
        sum.asked += found.asked;
        sum.local += found.local;
        sum.shared += found.shared;
        sum.failed += found.failed;
    }
    Ok(sum)
}

/// Does what is to be done in each project in its order, one of each project after the other, at the instances in turn.
async fn ask_all(mut share: Vec<(Client, Client, VecDeque<Operation>)>) -> Result<Found, Broken> {
    let mut found = Found::default();
    let mut turn = 0_usize;
    loop {
        let mut is_done = true;
        for (at_a, at_b, operations) in &mut share {
            let Some(operation) = operations.pop_front() else { continue };
            is_done = false;
            turn += 1;
            let client = if turn.is_multiple_of(2) { at_a } else { at_b };
            match operation {
                Operation::Write { text } => {
                    let called = client.call("remember", json!({"content": text, "tags": ["note"]})).await?;
                    found.failed += u64::from(called.is_error);
                }
                Operation::Ask { question, is_counted } => {
                    let called = client.run("memory.by-tag", json!({"tag": question})).await?;
                    found.failed += u64::from(called.is_error);
                    if is_counted {
                        found.asked += 1;
                        match layer(&called) {
                            "local" => found.local += 1,
                            "shared" => found.shared += 1,
                            _ => {}
                        }
                    }
                }
            }
        }
        if is_done {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What would be found if every answer were kept until the next write in its project.
    fn ideal(workload: Workload) -> f64 {
        let (mut asked, mut hits) = (0_u32, 0_u32);
        for operations in workload.draw(1) {
            let mut kept = BTreeSet::new();
            for operation in operations {
                match operation {
                    Operation::Write { .. } => kept.clear(),
                    Operation::Ask { question, is_counted } => {
                        let is_kept = !kept.insert(question);
                        asked += u32::from(is_counted);
                        hits += u32::from(is_counted && is_kept);
                    }
                }
            }
        }
        100.0 * f64::from(hits) / f64::from(asked)
    }

    #[test]
    fn the_workload_leaves_room_above_its_target_and_none_in_its_control() {
        let full = Workload { projects: PROJECTS, is_control: false, before: 20_000, counted: 30_000 };
        let quick = Workload { counted: 2_500, ..full };
        for load in [full, quick] {
            let rate = ideal(load);
            assert!((80.5..84.5).contains(&rate), "{rate} of {}", load.counted);
        }
        assert!(ideal(Workload { is_control: true, before: 0, ..full }) < f64::EPSILON);
        let one = ideal(Workload { projects: 1, ..full });
        assert!((25.0..35.0).contains(&one), "{one}");
    }
}
