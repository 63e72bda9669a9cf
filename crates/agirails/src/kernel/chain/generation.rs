//! Which generation of the kernel a contract is. Each has rules of its own, and nothing moves from
//! one to the next.

use std::fmt;

use alloy_primitives::{B256, b256};

use super::{
    contracts::{Contract, kernel},
    lens::{Answer, Read},
};
use crate::error::{Code, Error, Result};

/// What `kernelVersion()` answers in AIP-14c: keccak256 of `ACTP_KERNEL_V2_AIP14C_REV2`.
const AIP_14C: B256 = b256!("6237ef5c6bfb5df789df4b1707183342f5ab5c813a9b570f3283a32ddc6f9be1");

/// A generation of the kernel. A contract's never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// Until May 2026: fifteen fields, no dispute bonds.
    Older,
    /// Since 2026-05-19, on Base and Base Sepolia.
    May2026,
    /// Since 2026-06-24, on Base Sepolia: work is recovered after a grace.
    F6,
    /// Since 2026-07-13, on Base Sepolia: agreement and result are committed to.
    Aip14c,
    /// A later one, which names itself so.
    Later(B256),
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Older => f.write_str("until May 2026 (15 fields, no dispute bonds)"),
            Self::May2026 => f.write_str("of May 2026"),
            Self::F6 => f.write_str("F-6, of June 2026"),
            Self::Aip14c => f.write_str("AIP-14c, of July 2026"),
            Self::Later(version) => {
                write!(f, "{version}, later than those that this version knows")
            }
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

impl Generation {
    /// Reads the answers to [`probes`]. Each function that a generation lacks reverts without data;
    /// any other answer is no kernel's: `None`.
    pub(super) fn of([version, grace, bond]: [&Answer; 3]) -> Option<Self> {
        let (version, grace, bond) = (version.probed()?, grace.probed()?, bond.probed()?);
        Some(match (version, grace.is_some(), bond.is_some()) {
            (Some(AIP_14C), true, true) => Self::Aip14c,
            (Some(version), ..) => Self::Later(version),
            (None, true, true) => Self::F6,
            (None, false, true) => Self::May2026,
            (None, false, false) => Self::Older,
            (None, true, false) => return None,
        })
    }

    /// # Errors
    /// [`Code::UnsupportedKernel`], naming the generation, for those whose rules this version does
    /// not speak.
    pub(super) fn require_supported(self, core: Contract) -> Result<()> {
        if self == Self::May2026 {
            return Ok(());
        }
        let address = core.address;
        let message = format!(
            "the kernel {address} is of the generation {self}; this version of agirails supports \
             the generation {}",
            Self::May2026
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
    use alloy_primitives::{Address, Bytes, U256};
    use alloy_sol_types::SolValue;

    use super::{super::reverts::Revert, *};

    fn answer(outcome: Result<Bytes, Revert>) -> Answer {
        Answer::plain(Contract { role: "kernel", address: Address::repeat_byte(1) }, outcome)
    }

    #[test]
    fn each_generation_is_told_by_its_answers() {
        let word = |value: U256| answer(Ok(value.abi_encode().into()));
        let none = || answer(Err(Revert::Silent));
        let (grace, bond) = (|| word(U256::from(3_600)), || word(U256::from(500)));
        let of = |version, grace, bond| Generation::of([&version, &grace, &bond]);
        let later = U256::from(7);
        assert_eq!(of(word(AIP_14C.into()), grace(), bond()), Some(Generation::Aip14c));
        assert_eq!(of(word(later), grace(), bond()), Some(Generation::Later(later.into())));
        assert_eq!(of(none(), grace(), bond()), Some(Generation::F6));
        assert_eq!(of(none(), none(), bond()), Some(Generation::May2026));
        assert_eq!(of(none(), none(), none()), Some(Generation::Older));
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
    fn only_the_supported_generation_is_let_in_and_the_others_are_named() {
        let core = Contract { role: "kernel", address: Address::repeat_byte(1) };
        assert!(Generation::May2026.require_supported(core).is_ok());
        for (generation, name) in [
            (Generation::Older, "15 fields"),
            (Generation::F6, "F-6"),
            (Generation::Aip14c, "AIP-14c"),
            (Generation::Later(B256::repeat_byte(7)), "0x0707"),
        ] {
            let error = generation.require_supported(core).unwrap_err();
            assert_eq!(error.code(), Code::UnsupportedKernel);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
