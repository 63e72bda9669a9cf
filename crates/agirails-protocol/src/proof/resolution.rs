use alloy_primitives::{Address, U256};

use crate::{Refusal, Usdc};

/// How a dispute ends: who gets how much of the escrow, and who gets the bond.
///
/// ```
/// use agirails_protocol::{Usdc, proof::Resolution};
///
/// let resolution = Resolution {
///     requester_amount: Usdc(600_000),
///     provider_amount: Usdc(400_000),
///     provider_at_fault: true,
///     mediator: None,
/// };
/// assert_eq!(Resolution::decode(&resolution.encode())?, Some(resolution));
/// # Ok::<(), agirails_protocol::Refusal>(())
/// ```
///
/// Source: `ACTPKernel`'s resolution proofs, AIP-14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// The requester's part, base units of USDC.
    pub requester_amount: Usdc,
    /// The provider's part, before its fee.
    pub provider_amount: Usdc,
    /// Whether the bond goes to the requester; else it goes to the provider.
    pub provider_at_fault: bool,
    /// Who mediated, and its part.
    pub mediator: Option<(Address, Usdc)>,
}

impl Resolution {
    /// The bytes that the kernel takes: `abi.encode(requesterAmount, providerAmount[, mediator,
    /// mediatorAmount], providerAtFault)`, 96 or 160 of them.
    ///
    /// The kernel also takes both without the last word and then finds the provider at fault;
    /// that word is always written here.
    pub fn encode(&self) -> Vec<u8> {
        let mut words = vec![amount_word(self.requester_amount), amount_word(self.provider_amount)];
        if let Some((mediator, amount)) = self.mediator {
            words.extend([mediator.into_word().0, amount_word(amount)]);
        }
        words.push(U256::from(self.provider_at_fault).to_be_bytes());
        words.concat()
    }

    /// Reads a resolution as the kernel does; no bytes are no resolution.
    ///
    /// An amount beyond 64 bits becomes `u64::MAX`, which no escrow holds, so that it is refused
    /// where the amounts are added up, as the kernel refuses it. A mediator without an amount is
    /// kept, because the kernel checks its approval all the same.
    ///
    /// # Errors
    /// [`Refusal::InvalidResolutionProof`] for another length or a word that is no bool or no
    /// address; then [`Refusal::EmptyResolution`] where nobody gets anything; then
    /// [`Refusal::MediatorAddressRequired`] where nobody would get the mediator's part.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (words, rest) = bytes.as_chunks::<32>();
        let ([requester, provider, more @ ..], []) = (words, rest) else {
            return Err(Refusal::InvalidResolutionProof);
        };
        let (mediation, fault) = match more {
            [] => (None, None),
            [fault] => (None, Some(fault)),
            [mediator, amount] => (Some((mediator, amount)), None),
            [mediator, amount, fault] => (Some((mediator, amount)), Some(fault)),
            _ => return Err(Refusal::InvalidResolutionProof),
        };
        let provider_at_fault = fault.map_or(Ok(true), read_bool)?;
        let (mediator, mediator_amount) = match mediation {
            Some((mediator, amount)) => (read_address(mediator)?, read_amount(amount)),
            None => (Address::ZERO, Usdc::ZERO),
        };
        let (requester_amount, provider_amount) = (read_amount(requester), read_amount(provider));

        if [requester_amount, provider_amount, mediator_amount] == [Usdc::ZERO; 3] {
            return Err(Refusal::EmptyResolution);
        }
        if mediator == Address::ZERO && mediator_amount > Usdc::ZERO {
            return Err(Refusal::MediatorAddressRequired);
        }
        let mediator = (mediator != Address::ZERO).then_some((mediator, mediator_amount));
        Ok(Some(Self { requester_amount, provider_amount, provider_at_fault, mediator }))
    }
}

type Word = [u8; 32];

fn amount_word(amount: Usdc) -> Word {
    U256::from(amount.0).to_be_bytes()
}

fn read_amount(word: &Word) -> Usdc {
    Usdc(U256::from_be_bytes(*word).saturating_to())
}

fn read_bool(word: &Word) -> Result<bool, Refusal> {
    match U256::from_be_bytes(*word) {
        U256::ZERO => Ok(false),
        U256::ONE => Ok(true),
        _ => Err(Refusal::InvalidResolutionProof),
    }
}

fn read_address(word: &Word) -> Result<Address, Refusal> {
    let address = Address::from_word(word.into());
    if address.into_word() == *word { Ok(address) } else { Err(Refusal::InvalidResolutionProof) }
}
