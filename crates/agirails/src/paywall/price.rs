//! What a call costs, and how it is offered.

use serde_json::{Value, json};

use super::settings::{Deliver, Settings};
use crate::{
    error::{Code, Error, Result},
    protocol::{Terms, Usdc, money, rules::Rates},
};

/// From this amount on a requester can cancel a transaction by itself after its deadline: 5 % of
/// less do not pay the protocol's least fee, and the cancellation is refused.
pub const SELF_CANCELLABLE: Usdc = Usdc(1_000_000);
/// The fee of transactions that are made now, for the price page; the rate that counts is locked
/// into each transaction.
const FEE_BPS: u16 = 100;

/// For how long a bundle may be sold: to pay for it and to call takes minutes, and a balance that
/// nobody uses is money that nobody has.
const LASTS: std::ops::RangeInclusive<u64> = 300..=2_592_000;

/// How long a transaction may last where its charge does not say, seconds.
const DEFAULT_LIFETIME: u64 = 3_600;

/// What one call costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// The same for every call.
    Fixed(Usdc),
    /// Worked out from each request by the application, which passes it along with the request.
    PerRequest,
}

/// What is put on a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    pub(super) name: String,
    pub(super) price: Price,
    pub(super) calls: u32,
    pub(super) min_seconds_left: Option<u64>,
    pub(super) deliver: Option<Deliver>,
    pub(super) described: Option<String>,
    pub(super) lasts: Option<u64>,
}

impl Charge {
    /// A price per call. The name tells routes apart in prices, logs and metrics, such as
    /// `POST /api/generate`.
    pub fn new(name: impl Into<String>, price: Usdc) -> Self {
        let price = Price::Fixed(price);
        Self {
            name: name.into(),
            price,
            calls: 0,
            min_seconds_left: None,
            deliver: None,
            described: None,
            lasts: None,
        }
    }

    /// A price that the application works out from each request.
    pub fn per_request(name: impl Into<String>) -> Self {
        Self { price: Price::PerRequest, ..Self::new(name, Usdc::ZERO) }
    }

    /// Sells bundles of this many calls only: one transaction is drawn down call by call.
    pub const fn calls(mut self, calls: u32) -> Self {
        self.calls = calls;
        self
    }

    /// How much time a transaction must have left before its deadline, in place of the paywall's
    /// setting. For handlers that run long.
    pub const fn min_seconds_left(mut self, seconds: u64) -> Self {
        self.min_seconds_left = Some(seconds);
        self
    }

    /// What the price page says of a price that is worked out from each request: a range, or a
    /// sentence, such as `"0.05 to 0.50 USDC, by length"`.
    pub fn described(mut self, text: impl Into<String>) -> Self {
        self.described = Some(text.into());
        self
    }

    /// For how many seconds from its purchase on calls can be made with a bundle, 300 to 2_592_000
    /// (30 days), and within [`Settings::idle_close_seconds`] and
    /// [`Settings::max_deadline_seconds`]. What is left of it then is the provider's when it is delivered. Where it is not
    /// set: until `min_seconds_left` before the end of an hour.
    pub const fn lasts(mut self, seconds: u64) -> Self {
        self.lasts = Some(seconds);
        self
    }

    /// When the response leaves, in place of the paywall's setting.
    pub const fn deliver(mut self, deliver: Deliver) -> Self {
        self.deliver = Some(deliver);
        self
    }

    /// # Errors
    /// [`Code::InvalidAmount`] for a price of nothing or a bundle that the protocol does not take,
    /// [`Code::InvalidNumber`] for a minimum that could never be met, or a bundle that lasts too short
    /// or too long.
    pub(super) fn check(&self, settings: &Settings) -> Result<()> {
        if let Price::Fixed(price) = self.price {
            check_price(price)?;
            let amount = self.bundle(price);
            if amount < money::MIN_AMOUNT || amount > money::MAX_AMOUNT {
                let problem = format!(
                    "times {} calls is {amount} USDC; a transaction holds {} to {} USDC",
                    self.calls,
                    money::MIN_AMOUNT,
                    money::MAX_AMOUNT
                );
                return Err(Error::invalid(
                    Code::InvalidAmount,
                    "price",
                    &price.to_string(),
                    &problem,
                )
                .with_hint("sell more calls with one transaction, or leave calls out"));
            }
        }
        let refuse = |field, seconds: u64, problem: String| {
            Err(Error::invalid(Code::InvalidNumber, field, &seconds.to_string(), &problem))
        };
        let Settings { closing_seconds, idle_close_seconds, max_deadline_seconds, .. } = *settings;
        let min_seconds_left = self.min_seconds_left.unwrap_or(settings.min_seconds_left);
        if let Some(seconds) = self.lasts {
            if !LASTS.contains(&seconds) {
                let problem = format!("must be {} to {} seconds", LASTS.start(), LASTS.end());
                return refuse("lasts", seconds, problem);
            }
            if seconds > idle_close_seconds {
                let problem = format!("must be at most idle_close_seconds, {idle_close_seconds}");
                return refuse("lasts", seconds, problem);
            }
            if seconds.saturating_add(min_seconds_left) > max_deadline_seconds {
                let problem = format!(
                    "and min_seconds_left must be at most max_deadline_seconds, \
                     {max_deadline_seconds}"
                );
                return refuse("lasts", seconds, problem);
            }
        }
        if min_seconds_left <= closing_seconds {
            let problem = format!("must be more than closing_seconds, {closing_seconds}");
            return refuse("min_seconds_left", min_seconds_left, problem);
        }
        Ok(())
    }

    /// The charge's name, which tells routes apart in prices, logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What one call costs.
    pub const fn price(&self) -> Price {
        self.price
    }

    /// The methods of the route, as far as its name says.
    pub(super) fn methods(&self) -> Vec<String> {
        let first = self.name.split(' ').next().unwrap_or_default();
        let is_method = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_uppercase());
        let any = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
        match is_method {
            true => vec![first.to_owned()],
            false => any.map(str::to_owned).to_vec(),
        }
    }

    /// What one call alone costs, where that is the same for every call and sold.
    pub(super) fn single_price(&self) -> Option<Usdc> {
        match self.price {
            Price::Fixed(price) if !self.is_bundled(price) => Some(price),
            _ => None,
        }
    }

    /// The least that a call may cost.
    pub(super) const fn floor(&self) -> Usdc {
        match self.price {
            Price::Fixed(price) => price,
            Price::PerRequest => Usdc(1),
        }
    }

    /// Whether only bundles are sold at this price.
    pub(super) fn is_bundled(&self, price: Usdc) -> bool {
        self.calls > 0 || price < money::MIN_AMOUNT
    }

    /// How many calls the least transaction holds that is sold at this price.
    pub(super) fn least_calls(&self, price: Usdc) -> u64 {
        match u64::from(self.calls) {
            0 if price < money::MIN_AMOUNT => sensible_calls(price),
            0 => 1,
            calls => calls,
        }
    }

    /// What the least transaction is worth.
    pub(super) fn bundle(&self, price: Usdc) -> Usdc {
        Usdc(price.0.saturating_mul(self.least_calls(price)))
    }

    /// How long a transaction may last that pays for such calls.
    pub(super) fn lifetime(&self, min_seconds_left: u64, is_prepaid: bool) -> u64 {
        match self.lasts.filter(|_| is_prepaid) {
            Some(lasts) => lasts + min_seconds_left,
            None => DEFAULT_LIFETIME.max(min_seconds_left * 2),
        }
    }

    /// How a call at this price can be paid for: how many calls with how much.
    pub(super) fn offers(&self, price: Usdc) -> Vec<Offer> {
        let offer = |calls: u64| Offer { calls, amount: Usdc(price.0.saturating_mul(calls)) };
        if self.is_bundled(price) {
            return vec![offer(self.least_calls(price))];
        }
        let mut offers = vec![offer(1)];
        if sensible_calls(price) > 1 {
            offers.push(offer(sensible_calls(price)));
        }
        offers
    }
}

/// # Errors
/// [`Code::InvalidAmount`] for nothing, or more than the protocol moves.
pub(super) fn check_price(price: Usdc) -> Result<()> {
    if price == Usdc::ZERO || price > money::MAX_AMOUNT {
        let problem = format!("must be above 0 and at most {} USDC", money::MAX_AMOUNT);
        return Err(Error::invalid(Code::InvalidAmount, "price", &price.to_string(), &problem)
            .with_hint("name a price in USDC such as \"0.10\"; a free route needs no paywall"));
    }
    Ok(())
}

/// A way to pay: one transaction of this amount for this many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) calls: u64,
    pub(super) amount: Usdc,
}

impl Offer {
    /// For the price page: what of it the protocol keeps.
    pub(super) fn describe(self, terms: Terms) -> Value {
        let fee = terms.payout(self.amount, FEE_BPS).map_or(self.amount, |payout| payout.fee);
        json!({
            "calls": self.calls,
            "amount": usdc(self.amount),
            "protocolFee": usdc(fee),
            "protocolFeePerCall": usdc(Usdc(fee.0.div_ceil(self.calls.max(1)))),
            "providerReceives": usdc(self.amount.checked_sub(fee).unwrap_or_default()),
            "cancellableByRequester":
                terms.requester_can_cancel(self.amount, Rates::default().requester_penalty_bps),
        })
    }
}

/// The fewest calls whose transaction its requester could cancel by itself.
pub(super) fn sensible_calls(price: Usdc) -> u64 {
    SELF_CANCELLABLE.0.div_ceil(price.0.max(1)).max(1)
}

/// An amount as people read it.
pub(super) fn usdc(amount: Usdc) -> String {
    format!("{amount} USDC")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cheap_calls_are_sold_in_the_least_sensible_bundle() {
        let charge = Charge::new("GET /", Usdc(300));
        assert!(charge.is_bundled(Usdc(300)));
        let [offer] = charge.offers(Usdc(300))[..] else { panic!() };
        assert_eq!((offer.calls, offer.amount), (3_334, Usdc(1_000_200)));
    }

    #[test]
    fn a_call_below_a_dollar_is_offered_alone_and_in_a_bundle() {
        let charge = Charge::new("GET /", Usdc(100_000));
        let offers = charge.offers(Usdc(100_000));
        let calls: Vec<_> = offers.iter().map(|offer| offer.calls).collect();
        assert_eq!(calls, [1, 10]);
        assert_eq!(charge.offers(Usdc(2_000_000)).len(), 1);
        let page = offers[0].describe(Terms::MAY_2026);
        assert_eq!(page["protocolFee"], "0.05 USDC");
        assert_eq!(page["cancellableByRequester"], false);
    }

    #[test]
    fn a_charge_the_protocol_cannot_carry_is_refused() {
        let check = |charge: Charge| charge.check(&Settings::default());
        assert!(check(Charge::new("GET /", Usdc(0))).is_err());
        assert!(check(Charge::new("GET /", Usdc(10)).calls(10)).is_err());
        assert!(check(Charge::new("GET /", Usdc(10))).is_ok());
        assert!(check(Charge::new("GET /", Usdc(100_000)).min_seconds_left(60)).is_err());
        let lasting = |seconds| check(Charge::new("GET /", Usdc(10)).lasts(seconds));
        assert!(lasting(300).is_ok() && lasting(86_400).is_ok());
        // No longer than an unused balance stays open.
        assert!(lasting(299).is_err() && lasting(86_401).is_err());
    }
}
