//! What every kernel must do, as scenarios over a [`Stage`]: whoever brings a kernel runs them all.
//!
//! Together they hold each row of the protocol's table (who, when, what it carries, what it does
//! to the money), each word with which a call is refused, the order of the checks, the traps of the
//! deployed rules, and the events, for each generation of the kernel. Amounts and times are written out, not computed by the rules
//! under test.
//!
//! A scenario fails by panicking at the line that was not met, or by returning the error of a call
//! that should have succeeded. It makes its own parties, so one stage can carry all of them, one
//! after another.
//!
//! ```
//! use agirails::{Result, testkit::{Need, SCENARIOS, Stage}};
//!
//! async fn conforms(stage: &dyn Stage) -> Result<()> {
//!     for scenario in SCENARIOS.iter().filter(|scenario| scenario.needs == Need::Nothing) {
//!         println!("{}", scenario.name);
//!         (scenario.run)(stage).await?;
//!     }
//!     Ok(())
//! }
//! ```

mod scenario;
mod watch;

pub mod attesting;
pub mod cancelling;
pub mod creating;
pub mod delivering;
pub mod disputing;
pub mod funding;
pub mod milestones;
pub mod pausing;
pub mod proofs;
pub mod quoting;
pub mod reading;
pub mod recovering;
pub mod registering;
pub mod settling;
pub mod table;

use std::{pin::Pin, sync::Arc};

use alloy_primitives::Address;
use async_trait::async_trait;

pub use watch::Watch;

use crate::{
    error::Result,
    kernel::Kernel,
    protocol::{Refusal, Usdc, registry::ServiceDescriptor},
};

/// A kernel and what a test may do around it.
#[async_trait]
pub trait Stage: Send + Sync {
    /// The kernel under test. It acts for every party and for the network's admin.
    fn kernel(&self) -> &Arc<dyn Kernel>;

    /// A fresh address that never took part, with 1_000 USDC.
    async fn party(&self) -> Result<Address>;

    /// Gives an address more test USDC.
    async fn mint(&self, to: Address, amount: Usdc) -> Result<()>;

    /// Moves the clock ahead.
    async fn advance(&self, seconds: u64) -> Result<()>;

    /// Lets the next call happen at exactly this time, which is later than all before. Only asked
    /// of stages that run [`Need::ExactClock`].
    async fn at(&self, time: u64) -> Result<()>;

    /// Pauses or resumes the protocol.
    async fn set_paused(&self, paused: bool) -> Result<()>;

    /// Approves a mediator, who can be paid from two days later on.
    async fn approve_mediator(&self, mediator: Address) -> Result<()>;

    /// Registers so many more agents, each a fresh party with this endpoint and these services.
    /// Whoever has a faster way than the kernel's own, one after another, takes that.
    async fn crowd(
        &self,
        count: usize,
        endpoint: &str,
        services: &[ServiceDescriptor],
    ) -> Result<()> {
        let registry = self.kernel().registry().ok_or(Refusal::NotRegistered)?;
        for _ in 0..count {
            registry.register_agent(self.party().await?, endpoint, services).await?;
        }
        Ok(())
    }
}

/// One behaviour that every kernel has.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// The behaviour, which is the function's name.
    pub name: &'static str,
    /// What it takes beyond a stage.
    pub needs: Need,
    /// Plays it.
    pub run: for<'a> fn(&'a dyn Stage) -> Played<'a>,
}

/// What a scenario takes beyond a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// A clock that stands where [`Stage::at`] sets it.
    ExactClock,
    /// A stage of its own, with 10_000 agents: it leaves a full registry behind.
    OwnStage,
}

/// A scenario being played.
pub type Played<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

macro_rules! scenarios {
    ($($module:ident { $($name:ident $(($need:ident))?,)* })*) => {
        /// All scenarios.
        pub const SCENARIOS: &[Scenario] = &[$($(
            Scenario {
                name: stringify!($name),
                needs: scenarios!(@need $($need)?),
                run: |stage| Box::pin($module::$name(stage)),
            },
        )*)*];
    };
    (@need) => { Need::Nothing };
    (@need $need:ident) => { Need::$need };
}

scenarios! {
    creating {
        a_new_transaction_is_initiated_and_moves_no_money,
        equal_requests_get_different_ids,
        creation_is_refused_in_the_order_of_the_checks,
        amounts_reach_from_five_cents_to_a_thousand_million,
        dispute_windows_reach_from_an_hour_to_thirty_days,
        deadlines_lie_ahead_and_within_a_year,
        a_deadline_is_later_than_now_and_at_most_365_days_to_the_second (ExactClock),
    }
    quoting {
        a_quote_keeps_its_hash,
        a_quote_without_a_hash_keeps_none,
        a_quote_hash_has_32_bytes_that_are_not_zero,
        only_the_provider_quotes_and_only_in_time,
        accepting_a_quote_replaces_the_amount_and_stays_quoted,
        accepting_a_quote_is_refused_in_the_order_of_the_checks,
        quotes_are_made_and_accepted_until_the_deadline_to_the_second (ExactClock),
    }
    funding {
        linking_takes_the_amount_into_the_vault,
        linking_takes_what_an_accepted_quote_says,
        linking_approves_exactly_what_is_missing,
        linking_takes_all_that_the_requester_has,
        linking_without_the_money_is_refused_before_anything_moves,
        an_escrow_id_is_used_once_ever,
        linking_is_refused_in_the_order_of_the_checks,
        linking_ends_with_the_deadline_to_the_second (ExactClock),
    }
    delivering {
        work_is_started_by_the_provider_and_moves_no_money,
        only_the_provider_starts_and_only_in_time,
        a_delivery_opens_the_dispute_window,
        a_delivery_carries_a_window_or_nothing,
        only_the_provider_delivers_and_only_in_time,
        nothing_is_delivered_before_work_started,
        the_window_is_a_duration_before_delivery_and_a_time_from_then_on,
        delivery_ends_with_the_deadline_to_the_second (ExactClock),
    }
    settling {
        settling_pays_the_provider_less_the_fee,
        a_settlement_of_five_cents_pays_the_provider_nothing,
        the_requester_settles_at_any_time,
        the_provider_settles_once_the_window_has_passed,
        strangers_settle_once_the_window_has_passed,
        settling_is_open_to_all_after_the_windows_last_second (ExactClock),
        releasing_a_settled_escrow_again_finds_nothing_left,
        nothing_is_released_before_settlement,
    }
    disputing {
        a_dispute_takes_a_bond_from_whoever_opens_it,
        a_dispute_bond_is_five_percent_and_at_least_one_usdc,
        a_dispute_without_money_for_the_bond_is_refused,
        only_parties_dispute_and_only_within_the_window,
        disputes_end_with_the_windows_last_second (ExactClock),
        only_the_admin_resolves,
        from_f6_on_a_mediator_resolves_two_days_after_its_approval,
        a_resolution_splits_the_escrow_and_gives_the_bond_to_the_winner,
        a_resolution_without_a_verdict_finds_the_provider_at_fault,
        a_resolution_pays_its_mediator,
        a_mediator_is_paid_from_two_days_after_its_approval_to_the_second (ExactClock),
        a_resolution_is_refused_unless_it_gives_all_and_only_what_is_there,
        a_share_below_five_cents_to_the_provider_is_refused_before_f6,
        a_cancelled_dispute_refunds_the_requester_and_returns_the_bond,
        a_cancelled_dispute_can_split_the_escrow,
        a_dispute_over_an_empty_escrow_is_about_the_bond_alone,
    }
    cancelling {
        the_requester_calls_off_what_is_not_funded,
        the_provider_gives_a_commitment_back_in_full,
        the_requester_takes_a_commitment_back_after_the_deadline_for_a_penalty,
        a_commitment_below_one_usdc_is_taken_back_from_f6_on_only,
        once_work_started_only_the_provider_gives_back,
        a_late_provider_can_only_give_back,
        strangers_cancel_nothing,
        the_requester_takes_back_from_the_deadlines_second_on (ExactClock),
    }
    recovering {
        from_f6_on_anybody_recovers_abandoned_work_for_its_requester,
        only_begun_work_is_recovered_and_a_pause_does_not_stop_it,
        a_late_provider_gives_back_until_somebody_recovers,
        work_is_recovered_from_the_second_after_its_last_delivery (ExactClock),
        from_aip_14c_on_agreement_and_result_are_kept,
    }
    milestones {
        a_milestone_pays_part_and_its_own_fee,
        milestones_can_pay_everything,
        a_milestone_is_paid_after_the_deadline_too,
        milestones_are_refused_in_the_order_of_the_checks,
        from_f6_on_a_payout_below_the_least_fee_is_all_fee,
    }
    attesting {
        parties_anchor_attestations_on_settled_transactions,
        attestations_are_refused_in_the_order_of_the_checks,
    }
    table {
        every_step_that_the_table_does_not_know_is_refused,
        terminal_states_are_left_by_nobody,
        until_the_deadline_only_the_provider_moves_a_commitment,
        moves_are_refused_in_the_order_of_the_checks,
        an_unknown_id_is_refused_everywhere,
    }
    pausing {
        a_pause_comes_before_all_other_words,
        a_pause_does_not_hold_back_settled_money_nor_reading,
    }
    proofs {
        a_delivery_proof_never_reaches_the_kernel_and_is_found_again,
        a_delivery_proof_opens_the_window_of_the_creation,
        a_32_byte_delivery_is_the_window_that_it_is,
        a_proof_of_another_transaction_is_refused,
        a_proof_belongs_to_a_delivery,
        a_refused_delivery_keeps_no_proof,
        other_lengths_reach_the_kernel_and_its_words,
    }
    reading {
        events_tell_a_paid_call_in_the_contracts_order,
        events_tell_a_quote_and_a_milestone_in_the_contracts_order,
        events_tell_a_dispute_in_the_contracts_order,
        events_tell_a_cancellation_in_the_contracts_order,
        events_are_read_on_from_any_cursor,
        transactions_are_found_by_party_role_and_state,
        transactions_are_found_in_pages_newest_first,
        every_change_but_an_attestation_is_dated,
        an_escrow_is_read_until_it_is_empty,
        reading_asks_for_a_sensible_number,
    }
    registering {
        a_registered_agent_is_found,
        an_agent_changes_its_profile,
        services_are_added_and_removed,
        queries_come_in_the_order_of_registration_and_in_pages,
        reputation_follows_settlements,
        reputation_remembers_lost_disputes_only,
        profiles_are_refused_in_the_registrys_words,
        service_types_are_refused_in_the_registrys_words,
        an_agent_offers_at_most_a_hundred_services,
        a_registry_holds_ten_thousand_agents_and_answers_for_one_thousand (OwnStage),
    }
}
