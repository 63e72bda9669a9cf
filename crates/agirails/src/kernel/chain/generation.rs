//! Finding out which generation of the kernel a contract is.

use std::fmt;

use alloy_primitives::{B256, U256, b256};

use super::{
    contracts::{Contract, kernel},
    lens::{Answer, Read},
};
use crate::{
    error::{Code, Error, Result},
    protocol::{Generation, MIN_RECOVERY_GRACE_SECONDS, Terms},
};

/// What `kernelVersion()` answers in AIP-14c: keccak256 of `ACTP_KERNEL_V2_AIP14C_REV2`.
const AIP_14C: B256 = b256!("6237ef5c6bfb5df789df4b1707183342f5ab5c813a9b570f3283a32ddc6f9be1");

/// What a contract says of its generation. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// One whose rules this version speaks.
    Known(Terms),
    /// Until May 2026: fifteen or nineteen fields.
    Older,
    /// A later one, which names itself so.
    Later(B256),
    /// One of a grace that no deployment can have.
    Grace(U256),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(terms) => write!(f, "is of the generation {}", terms.generation()),
            Self::Older => f.write_str("is of a generation before May 2026"),
            Self::Later(version) => write!(
                f,
                "names its version {version}, which is later than those that this version knows"
            ),
            Self::Grace(seconds) => write!(
                f,
                "has a recoveryGrace of {seconds} seconds, and the least is \
                 {MIN_RECOVERY_GRACE_SECONDS}"
            ),
        }
    }
}

/// The reads that tell a kernel's generation.
pub(super) fn probes(core: Contract) -> [Read; 3] {
    [
        Read::new(core, &kernel::kernelVersionCall {}, 1),
        Read::new(core, &kernel::recoveryGraceCall {}, 1),
        Read::new(core, &kernel::disputeBondBpsCall {}, 1),
    ]
}

impl Found {
    /// Reads the answers to [`probes`]. Each function that a generation lacks reverts without data;
    /// any other answer is no kernel's: `None`.
    pub(super) fn of([version, grace, bond]: [&Answer; 3]) -> Option<Self> {
        let (version, grace, bond) = (version.probed()?, grace.probed()?, bond.probed()?);
        let known = |generation, grace: B256| {
            let seconds = U256::from_be_bytes(grace.0);
            match u64::try_from(seconds) {
                Ok(seconds) if seconds >= MIN_RECOVERY_GRACE_SECONDS => {
                    Self::Known(Terms::new(generation, seconds))
                }
                _ => Self::Grace(seconds),
            }
        };
        Some(match (version, grace, bond) {
            (Some(AIP_14C), Some(grace), Some(_)) => known(Generation::Aip14c, grace),
            (Some(version), ..) => Self::Later(version),
            (None, Some(grace), Some(_)) => known(Generation::F6, grace),
            (None, None, Some(_)) => Self::Known(Terms::MAY_2026),
            (None, None, None) => Self::Older,
            (None, Some(_), None) => return None,
        })
    }

    /// Whether this version must not judge the contract by what it answers to other calls: it names
    /// a version of its own.
    pub(super) fn names_itself(self) -> bool {
        matches!(self, Self::Later(_))
    }

    /// # Errors
    /// [`Code::UnsupportedKernel`], saying what was found, for those whose rules this version does
    /// not speak.
    pub(super) fn terms(self, core: Contract) -> Result<Terms> {
        if let Self::Known(terms) = self {
            return Ok(terms);
        }
        let address = core.address;
        let names = Generation::ALL.map(Generation::as_str).join(", ");
        let message = format!(
            "the kernel {address} {self}; this version of agirails supports the generations {names}"
        );
        Err(Error::new(Code::UnsupportedKernel, message)
            .with_hint(
                "use the kernel that the profiles of testnet and mainnet name, or a version of \
                 agirails that supports this generation; nothing was sent",
            )
            .with_facts(|facts| facts.value = Some(address.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes};
    use alloy_sol_types::SolValue;

    use super::{super::reverts::Revert, *};

    fn answer(outcome: Result<Bytes, Revert>) -> Answer {
        Answer::plain(Contract { role: "kernel", address: Address::repeat_byte(1) }, outcome)
    }

    #[test]
    fn each_generation_is_told_by_its_answers() {
        let word = |value: U256| answer(Ok(value.abi_encode().into()));
        let none = || answer(Err(Revert::Silent));
        let (grace, bond) = (|| word(U256::from(7_200)), || word(U256::from(500)));
        let of = |version, grace, bond| Found::of([&version, &grace, &bond]);
        let known = |generation| Some(Found::Known(Terms::new(generation, 7_200)));
        let later = U256::from(7);
        assert_eq!(of(word(AIP_14C.into()), grace(), bond()), known(Generation::Aip14c));
        assert_eq!(of(word(later), grace(), bond()), Some(Found::Later(later.into())));
        assert_eq!(of(none(), grace(), bond()), known(Generation::F6));
        assert_eq!(of(none(), none(), bond()), known(Generation::May2026));
        assert_eq!(of(none(), none(), none()), Some(Found::Older));
        // Half an AIP-14c is a later generation, and not F-6.
        let half = of(word(AIP_14C.into()), none(), bond());
        assert_eq!(half, Some(Found::Later(AIP_14C)));
        // What a kernel never answers.
        let words = || answer(Err(Revert::Words("no".to_owned())));
        let nothing = || answer(Ok(Bytes::new()));
        for strange in [words, nothing] {
            assert_eq!(of(strange(), none(), bond()), None);
            assert_eq!(of(none(), strange(), bond()), None);
            assert_eq!(of(none(), none(), strange()), None);
        }
    }

    #[test]
    fn only_supported_generations_are_let_in_and_the_others_are_named() {
        let core = Contract { role: "kernel", address: Address::repeat_byte(1) };
        for generation in Generation::ALL {
            let terms = Terms::new(generation, 3_600);
            assert_eq!(Found::Known(terms).terms(core), Ok(terms));
        }
        for (found, name) in [
            (Found::Older, "before May 2026"),
            (Found::Later(B256::repeat_byte(7)), "0x0707"),
            (Found::Grace(U256::from(3_599)), "3599 seconds"),
        ] {
            let error = found.terms(core).unwrap_err();
            assert_eq!(error.code(), Code::UnsupportedKernel);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
