//! What scenarios are told with: three parties, a transaction in any state, and who has how much.

use std::{fmt::Debug, ops::Sub};

use alloy_primitives::{Address, B256, U256};

use super::Stage;
use crate::{
    client::ACTPClient,
    error::{Code, Error, Result},
    kernel::{Kernel, Transition},
    protocol::{
        CreateTransaction, Event, LinkEscrow, Refusal, State, Terms, Transaction, TransactionId,
        Usdc,
    },
};

pub(super) const HOUR: u64 = 3_600;
pub(super) const DAY: u64 = 86_400;
/// One USDC in base units.
pub(super) const USDC: u64 = 1_000_000;

/// A stage with a requester, a provider and a stranger on it.
pub(super) struct Scene<'a> {
    pub(super) stage: &'a dyn Stage,
    pub(super) kernel: &'a dyn Kernel,
    pub(super) requester: Address,
    pub(super) provider: Address,
    pub(super) stranger: Address,
    pub(super) admin: Address,
    pub(super) terms: Terms,
}

/// What deliveries commit to where nothing else is said.
pub(super) const RESULT: B256 = B256::repeat_byte(0x4e);

impl<'a> Scene<'a> {
    pub(super) async fn on(stage: &'a dyn Stage) -> Result<Self> {
        let kernel = stage.kernel().as_ref();
        Ok(Self {
            stage,
            kernel,
            requester: stage.party().await?,
            provider: stage.party().await?,
            stranger: stage.party().await?,
            admin: kernel.network().admin,
            terms: kernel.network().terms,
        })
    }

    pub(super) fn client(&self, address: Address) -> ACTPClient {
        ACTPClient::with_kernel(self.stage.kernel().clone(), address)
    }

    pub(super) async fn now(&self) -> Result<u64> {
        self.kernel.now().await
    }

    /// A day's time, and the default dispute window.
    pub(super) async fn request(&self, amount: u64) -> Result<CreateTransaction> {
        let deadline = self.now().await? + DAY;
        Ok(CreateTransaction::new(self.requester, self.provider, Usdc(amount), deadline))
    }

    /// One USDC until this deadline.
    pub(super) async fn request_until(&self, deadline: u64) -> Result<CreateTransaction> {
        Ok(CreateTransaction { deadline, ..self.request(USDC).await? })
    }

    pub(super) async fn create(&self, request: &CreateTransaction) -> Result<TransactionId> {
        self.kernel.create_transaction(request.requester, request).await
    }

    pub(super) async fn link(&self, id: TransactionId) -> Result<B256> {
        self.kernel.link_escrow(self.requester, id, LinkEscrow::default()).await
    }

    /// Carries as little as the step allows.
    pub(super) async fn step(&self, by: Address, id: TransactionId, to: State) -> Result<()> {
        let data = match to {
            State::Delivered if self.terms.takes_results() => self.delivery(2 * DAY),
            _ => vec![],
        };
        self.step_with(by, id, to, &data).await
    }

    /// What a delivery with this window carries.
    pub(super) fn delivery(&self, window_seconds: u64) -> Vec<u8> {
        self.terms.encode_delivery(window_seconds, RESULT)
    }

    /// What the kernel keeps of the result of a delivery.
    pub(super) fn committed(&self, result_hash: B256) -> B256 {
        if self.terms.takes_results() { result_hash } else { B256::ZERO }
    }

    /// With what a delivery is refused that comes too late.
    pub(super) fn too_late(&self) -> Refusal {
        match self.terms.recovery_grace_seconds() {
            None => Refusal::TransactionExpired,
            Some(_) => Refusal::DeliveryGraceExpired,
        }
    }

    pub(super) async fn step_with(
        &self,
        by: Address,
        id: TransactionId,
        to: State,
        data: &[u8],
    ) -> Result<()> {
        let transition = Transition { id, to, data: data.to_vec(), proof: None };
        self.kernel.transition_state(by, &transition).await.map(drop)
    }

    /// A transaction in this state; a dispute is the requester's.
    pub(super) async fn in_state(&self, state: State, amount: u64) -> Result<TransactionId> {
        let id = self.create(&self.request(amount).await?).await?;
        match state {
            State::Initiated => {}
            State::Quoted => self.step(self.provider, id, State::Quoted).await?,
            State::Cancelled => self.step(self.requester, id, State::Cancelled).await?,
            _ => {
                self.link(id).await?;
                self.lead(id, state).await?;
            }
        }
        assert_eq!(self.state(id).await?, state);
        Ok(id)
    }

    /// On from COMMITTED.
    async fn lead(&self, id: TransactionId, state: State) -> Result<()> {
        let way: &[(Address, State)] = &[
            (self.provider, State::InProgress),
            (self.provider, State::Delivered),
            (self.requester, state),
        ];
        let length = match state {
            State::Committed => 0,
            State::InProgress => 1,
            State::Delivered => 2,
            _ => 3,
        };
        for (by, to) in way.iter().take(length) {
            self.step(*by, id, *to).await?;
        }
        Ok(())
    }

    pub(super) async fn tx(&self, id: TransactionId) -> Result<Transaction> {
        self.kernel.get_transaction(id).await
    }

    pub(super) async fn state(&self, id: TransactionId) -> Result<State> {
        Ok(self.tx(id).await?.state)
    }

    pub(super) async fn remaining(&self, id: TransactionId) -> Result<u64> {
        Ok(self.kernel.escrow(id).await?.remaining().0)
    }

    /// Ahead until this time has passed.
    pub(super) async fn advance_past(&self, time: u64) -> Result<()> {
        let now = self.now().await?;
        self.stage.advance((time + 1).saturating_sub(now)).await
    }

    /// Ahead until the transaction's deadline has passed.
    pub(super) async fn miss_deadline(&self, id: TransactionId) -> Result<()> {
        self.advance_past(self.tx(id).await?.deadline).await
    }

    /// Ahead until what was begun can no longer be delivered.
    pub(super) async fn miss_delivery(&self, id: TransactionId) -> Result<()> {
        self.advance_past(self.terms.delivered_until(self.tx(id).await?.deadline)).await
    }

    /// Ahead until the transaction's dispute window has passed.
    pub(super) async fn miss_window(&self, id: TransactionId) -> Result<()> {
        self.advance_past(self.tx(id).await?.dispute_window.to_contract()).await
    }

    /// Who has how much; the difference of two of these is what moved in between.
    pub(super) async fn purses(&self) -> Result<Flow> {
        let network = self.kernel.network();
        let purse = async |owner| Ok::<_, Error>(i128::from(self.kernel.balance(owner).await?.0));
        Ok(Flow {
            requester: purse(self.requester).await?,
            provider: purse(self.provider).await?,
            stranger: purse(self.stranger).await?,
            fees: purse(network.fee_recipient).await?,
            treasury: match network.archive_treasury {
                Some(treasury) => purse(treasury).await?,
                None => 0,
            },
            vault: purse(network.vault).await?,
        })
    }

    /// The protocol's income: a fee, of which this much is the archive treasury's if there is one.
    pub(super) fn fee(&self, fee: i128, treasury: i128) -> Flow {
        match self.kernel.network().archive_treasury {
            Some(_) => Flow { fees: fee - treasury, treasury, ..Flow::NONE },
            None => Flow { fees: fee, ..Flow::NONE },
        }
    }

    /// The number of the newest event.
    pub(super) async fn cursor(&self) -> Result<u64> {
        let mut cursor = 0;
        while let Some(last) = self.kernel.events(cursor, 10_000).await?.last() {
            cursor = last.cursor;
        }
        Ok(cursor)
    }

    pub(super) async fn events_after(&self, cursor: u64) -> Result<Vec<Event>> {
        let records = self.kernel.events(cursor, 10_000).await?;
        Ok(records.into_iter().map(|record| record.event).collect())
    }
}

/// Money that moved, base units, or all that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) requester: i128,
    pub(super) provider: i128,
    pub(super) stranger: i128,
    pub(super) fees: i128,
    pub(super) treasury: i128,
    pub(super) vault: i128,
}

impl Flow {
    pub(super) const NONE: Self =
        Self { requester: 0, provider: 0, stranger: 0, fees: 0, treasury: 0, vault: 0 };
}

impl Sub for Flow {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requester: self.requester - before.requester,
            provider: self.provider - before.provider,
            stranger: self.stranger - before.stranger,
            fees: self.fees - before.fees,
            treasury: self.treasury - before.treasury,
            vault: self.vault - before.vault,
        }
    }
}

#[track_caller]
pub(super) fn refused<T: Debug>(outcome: Result<T>, expected: Refusal) {
    failed(outcome, Code::Refused(expected));
}

#[track_caller]
pub(super) fn failed<T: Debug>(outcome: Result<T>, expected: Code) -> Option<Error> {
    match outcome {
        Err(error) => {
            assert_eq!(error.code().as_str(), expected.as_str(), "{error:?}");
            assert!(error.hint().is_some(), "{error:?}");
            Some(error)
        }
        Ok(value) => {
            assert_eq!(format!("{value:?}"), expected.as_str(), "it succeeded");
            None
        }
    }
}

/// Compares events but for their times, which must lie within these two.
#[track_caller]
pub(super) fn assert_events(found: &[Event], expected: &[Event], since: u64, until: u64) {
    let timeless = |event: &Event| {
        let mut json = serde_json::to_value(event).unwrap_or_default();
        json["timestamp"] = 0.into();
        format!("{json:#}")
    };
    let (found_text, expected_text): (Vec<_>, Vec<_>) =
        (found.iter().map(timeless).collect(), expected.iter().map(timeless).collect());
    assert_eq!(found_text.join("\n"), expected_text.join("\n"));
    for event in found {
        let json = serde_json::to_value(event).unwrap_or_default();
        if let Some(timestamp) = json["timestamp"].as_u64() {
            assert!((since..=until).contains(&timestamp), "{json}");
        }
    }
}

/// One ABI word.
pub(super) fn word(number: u64) -> [u8; 32] {
    U256::from(number).to_be_bytes()
}

/// ABI words in a row, as a resolution has them.
pub(super) fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().copied().flat_map(word).collect()
}

/// `abi.encode(requester, provider, mediator, mediatorAmount[, providerAtFault])`.
pub(super) fn mediation(split: [u64; 2], mediator: Address, fee: u64, fault: &[u64]) -> Vec<u8> {
    [words(&split), mediator.into_word().to_vec(), words(&[fee]), words(fault)].concat()
}
