//! On which generation of the kernel a suite is played.

use agirails::Generation;

/// The one that `AGIRAILS_GENERATION` names: CI plays the suites of the paywall and the keeper on the
/// oldest and on the newest.
pub fn generation() -> Generation {
    match std::env::var("AGIRAILS_GENERATION") {
        Ok(name) if !name.is_empty() => name.parse().unwrap(),
        _ => Generation::default(),
    }
}
