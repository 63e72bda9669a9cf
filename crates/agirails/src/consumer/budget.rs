//! How much may be spent.

use crate::{
    error::{Code, Error, Result},
    protocol::Usdc,
};

/// An hour in seconds.
pub(super) const HOUR: u64 = 3_600;
/// A day in seconds.
pub(super) const DAY: u64 = 86_400;

/// How much a consumer may spend. What is not set is not limited.
///
/// Hours and days are the last 3_600 and 86_400 seconds. What counts is what was put into escrow,
/// since that is what can be lost: a bundle counts in full when it is bought, its calls not at all.
/// What came back counts no longer. The sums are taken from the state file, in the same write that
/// records a purchase, so that they survive a restart and hold for all processes together.
///
/// ```
/// use agirails::consumer::Budget;
///
/// let budget = Budget { per_day: Some("10".parse()?), ..Budget::default() };
/// # Ok::<(), agirails::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// What one call may cost.
    pub per_call: Option<Usdc>,
    /// What may be put into escrow within an hour.
    pub per_hour: Option<Usdc>,
    /// What may be put into escrow within a day.
    pub per_day: Option<Usdc>,
    /// What may be put into escrow for one provider within a day, whatever addresses its service
    /// names.
    pub per_provider_per_day: Option<Usdc>,
}

/// What was spent: as the budget counts, what is put into escrow; and what calls took of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spent {
    /// Within the last hour.
    pub hour: Usdc,
    /// Within the last day.
    pub day: Usdc,
    /// Within the last day, for the provider that was asked about.
    pub provider: Usdc,
    /// What calls took within the last day, those that are under way among them.
    pub used: Usdc,
    /// What is in escrow now and no call has taken: it can be called with, or is the provider's once its
    /// balance ends.
    pub locked: Usdc,
}

impl Budget {
    /// # Errors
    /// [`Code::InvalidAmount`] for a limit that no transaction reaches.
    pub(super) fn check_limits(&self) -> Result<()> {
        for (field, limit) in [
            ("per_call", self.per_call),
            ("per_hour", self.per_hour),
            ("per_day", self.per_day),
            ("per_provider_per_day", self.per_provider_per_day),
        ] {
            super::check_limit(field, limit)?;
        }
        Ok(())
    }

    /// # Errors
    /// [`Code::BudgetExceeded`], naming the limit and what is left of it.
    pub(super) fn check(&self, amount: Usdc, spent: Spent) -> Result<()> {
        let limits = [
            ("per_hour", self.per_hour, spent.hour),
            ("per_day", self.per_day, spent.day),
            ("per_provider_per_day", self.per_provider_per_day, spent.provider),
        ];
        for (field, limit, spent) in limits {
            let Some(limit) = limit else { continue };
            let left = Usdc(limit.0.saturating_sub(spent.0));
            if amount > left {
                let message = format!(
                    "{amount} USDC do not fit into the budget: of {limit} {}, {spent} are spent",
                    field.replace('_', " ")
                );
                return Err(exceeded(field, amount, left, message)
                    .with_hint("wait, or raise the budget; nothing was paid"));
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`Code::BudgetExceeded`] for a call that alone costs too much.
    pub(super) fn check_call(&self, price: Usdc) -> Result<()> {
        match self.per_call {
            Some(limit) if price > limit => Err(above_per_call(price, limit)),
            _ => Ok(()),
        }
    }
}

/// The refusal of a call that alone costs too much.
pub(super) fn above_per_call(price: Usdc, limit: Usdc) -> Error {
    let message = format!("a call costs {price} USDC, and the budget is {limit} per call");
    exceeded("per_call", price, limit, message)
        .with_hint("raise the budget's per_call; nothing was paid")
}

fn exceeded(field: &'static str, required: Usdc, available: Usdc, message: String) -> Error {
    Error::new(Code::BudgetExceeded, message).with_facts(|facts| {
        facts.field = Some(field);
        facts.required = Some(required);
        facts.available = Some(available);
    })
}
