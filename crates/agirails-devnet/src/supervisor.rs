//! How a server is kept from outliving its owner: a shell in between, which ends it.

use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};

/// How long a server may take to end, which it does in milliseconds.
const END: Duration = Duration::from_secs(5);

/// A shell script that starts `$3…`, logs to `$2/log`, and ends it with the given `finish` (which
/// finds `$child` and `$nap`) when it is told to, or once this shell's parent is no longer the
/// owner, `$1`; then the files in `$2` go too.
///
/// The parent changes the moment the owner is dead, however it died: nobody needs to have reaped
/// it, its number can be in use again, and children that it forked, which hold all its pipes open,
/// change nothing. A `PR_SET_PDEATHSIG` would fire with the *thread* that started the server.
macro_rules! script {
    ($finish:literal) => {
        concat!(
            "finish() {",
            $finish,
            r#"}
child= nap=
trap finish TERM
owner=$1 directory=$2
shift 2
"$@" </dev/null >"$directory/log" 2>&1 &
child=$!
echo $child >"$directory/server.pid"
find_parent() {
    if [ -r "/proc/$$/stat" ]; then
        read -r _ _ _ parent _ <"/proc/$$/stat"
    else
        parent=$(ps -o ppid= -p $$ | tr -d ' ')
    fi
}
find_parent
while [ "$parent" = "$owner" ]; do
    kill -0 $child || { wait $child; exit $?; }
    sleep 1 &
    nap=$!
    wait $nap
    nap=
    find_parent
done
finish clean
"#
        )
    };
}
pub(crate) use script;

/// Tells a supervisor to finish; where it does not hear, its whole group is killed.
pub(crate) fn end(supervisor: &mut Child) {
    let Ok(group) = i32::try_from(supervisor.id()) else { return };
    // SAFETY: passes two numbers. The process is our child and not waited for yet, so its number,
    // also as that of its group, cannot belong to anybody else.
    let signal = |to, signal| unsafe { libc::kill(to, signal) };
    signal(group, libc::SIGTERM);
    let asked = Instant::now();
    while matches!(supervisor.try_wait(), Ok(None)) {
        if asked.elapsed() > END {
            signal(-group, libc::SIGKILL);
            // Nothing is left to be done about a failure.
            let _ = supervisor.wait();
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a server said last.
pub(crate) fn last_words(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    if last.is_empty() { "it said nothing".to_owned() } else { last }
}
