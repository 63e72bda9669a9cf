//! Catching up with very many events, and what memory that takes.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Instant,
};

use agirails::{NetworkProfile, Update, WatchOptions};

use crate::{
    Plan,
    figures::{Figures, Outcome},
    ground::Ground,
    heap, node, put,
};

pub async fn measure(figures: &mut Figures, plan: &Plan, ground: &Ground) -> Outcome<()> {
    let node = SyntheticNode::start(ground.devnet.rpc_url(), plan.events)?;
    let profile = NetworkProfile { deployment_block: Some(0), ..ground.profile(&node.url) };
    let kernel = ground.reader(profile).await?;
    let mut stream = kernel.watch(WatchOptions::default());
    let started = Instant::now();
    let (mut events, mut reports) = (0, 0);
    let tenth = plan.events / 10;
    // The most that was held meanwhile.
    let (mut first, mut last) = (0_f64, 0_f64);
    loop {
        match stream.next().await? {
            Update::Event(_) => {
                events += 1;
                if events <= tenth {
                    first = first.max(heap::held());
                } else if events > plan.events - tenth {
                    last = last.max(heap::held());
                }
                if events == tenth {
                    note_resident(figures, "catching up, resident MB at a tenth");
                }
            }
            Update::Progress { block, head, events } => {
                reports += 1;
                eprintln!("catching up: block {block} of {head}, {events} events");
            }
            Update::CaughtUp { .. } => break,
            update => return Err(format!("there is nothing to take back: {update:?}").into()),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    put(figures, "catching up, MB in the first tenth", first);
    put(figures, "catching up, MB in the last tenth", last);
    note_resident(figures, "catching up, resident MB at the end");
    put(figures, "catching up, events", events as f64);
    put(figures, "catching up, events a second", events as f64 / seconds);
    put(figures, "catching up, reports", f64::from(reports));
    Ok(())
}

/// The resident memory of this process, where the system tells.
fn note_resident(figures: &mut Figures, name: &str) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    if let Some(kilobytes) = kilobytes {
        put(figures, name, kilobytes * 1_024.0 / 1e6);
    }
}

/// A process of its own, so that its memory and its time are not the stream's.
struct SyntheticNode {
    process: Child,
    url: String,
}

impl SyntheticNode {
    fn start(upstream: &str, events: u64) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([node::ROLE, upstream, &events.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("it has no output")?;
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        Ok(Self { process, url: url.trim().to_owned() })
    }
}

/// It ends with its input.
impl Drop for SyntheticNode {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // Nothing can be done about it here.
        let _ = self.process.wait();
    }
}
