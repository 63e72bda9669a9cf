//! What a service wants for a call, and what would be paid, before anything is.

use alloy_primitives::Address;
use serde_json::Value;

use super::{
    Consumer, PaidCall, PaidResponse, encoding,
    http::{AS_IT_IS, Endpoint, HttpOutcome, HttpRequest, HttpResponse},
    offer::{self, Offer, PaymentKind, Usable},
    purchase::{PRICE_PAGE_BYTES, no_offer, words},
};
use crate::{
    error::Result,
    protocol::{
        TransactionId, Usdc,
        rules::{Rates, WayBack, way_back},
    },
};

/// A way to pay that a service offers, on this client's network and in its money.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OfferedPayment {
    /// Whether one call takes all of it.
    pub kind: PaymentKind,
    /// Who would be paid.
    pub provider: Address,
    /// What is put into escrow.
    pub amount: Usdc,
    /// What one call takes of it.
    pub price: Usdc,
    /// How many calls it holds.
    pub calls: u64,
    /// How long the transaction would last, seconds.
    pub lasts_seconds: u64,
    /// How long a delivery can be disputed, seconds.
    pub dispute_window_seconds: u64,
    /// Whether requests must be signed.
    pub signature_required: bool,
    /// Whether this client trusts the provider with money that could not be taken back.
    pub is_trusted: bool,
    /// How the money could come back without the provider's help on this network's kernel.
    pub way_back: WayBack,
}

/// What [`Consumer::call`] would pay with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// An open balance: nothing more is put into escrow.
    Balance {
        /// Its transaction; `None` while it is being funded.
        transaction_id: Option<TransactionId>,
        /// Who is paid.
        provider: Address,
        /// What the call takes.
        price: Usdc,
        /// What is left before it.
        left: Usdc,
    },
    /// A new transaction.
    Offer(OfferedPayment),
}

/// What [`Consumer::inspect`] found.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub struct Inspection {
    /// The answer to the call without payment.
    pub answer: PaidResponse,
    /// The ways to pay that this client could take; none where the call costs nothing.
    pub offers: Vec<OfferedPayment>,
    /// What is wrong with the service's other offers.
    pub problems: Vec<String>,
    /// What would be paid with, or why nothing would be; `None` where the call costs nothing.
    pub choice: Option<Result<Choice>>,
}

impl Consumer {
    /// Makes the call without paying, and tells what [`Self::call`] would pay with. Nothing is
    /// created and nothing written down; a service that costs nothing does what it was asked.
    ///
    /// # Errors
    /// [`crate::Code::NoOffer`] where the service wants to be paid in no way that this client can;
    /// [`crate::Code::InvalidSettings`] for a request that cannot be sent;
    /// [`crate::Code::ServiceUnreachable`].
    pub async fn inspect(&self, call: PaidCall) -> Result<Inspection> {
        let endpoint = Endpoint::parse(&call.url)?;
        let answer = self.call(call.clone().pays(false)).await?;
        let asks = self.asked_for(&call, &endpoint, &answer).await?;
        let Some(asked) = asks else {
            return Ok(Inspection { answer, offers: vec![], problems: vec![], choice: None });
        };
        let usable = offer::usable(&asked, self.inner.payer(&call))?;
        let choice = self.would_pay(&call, &endpoint, &usable).await;
        let shown = |(offer, calls): &(Offer, u64)| self.shown(&endpoint, offer, *calls);
        let offers = usable.offers.iter().map(shown).collect();
        Ok(Inspection { answer, offers, problems: usable.problems, choice: Some(choice) })
    }

    /// The offers of the service as they came; `None` where the call costs nothing.
    async fn asked_for(
        &self,
        call: &PaidCall,
        endpoint: &Endpoint,
        answer: &PaidResponse,
    ) -> Result<Option<Vec<Value>>> {
        let PaidResponse { status, headers, body, .. } = answer.clone();
        // As a purchase reads them: the documented provider in Python fails where nothing is paid.
        if !matches!(status, 402 | 500) {
            return Ok(None);
        }
        let response = HttpResponse { status, headers, body };
        let base = offer::base_of_challenge(&response, endpoint);
        let base = base.unwrap_or_else(|| endpoint.origin.clone());
        let mut offers = if status == 402 { offer::of_challenge(&response) } else { vec![] };
        if offers.is_empty() {
            let page = self.price_page(call, &base).await?;
            if status == 402 || offer::is_bare_price_page(&page) {
                offers = offer::of_price_page(&page, &call.method, endpoint, &base);
            }
        }
        match offers.is_empty() {
            false => Ok(Some(offers)),
            true if status == 402 => Err(no_offer(&base, &words(&response))),
            true => Ok(None),
        }
    }

    async fn price_page(&self, call: &PaidCall, base: &str) -> Result<Value> {
        let request = HttpRequest {
            method: "GET".to_owned(),
            url: format!("{base}/api/pricing"),
            headers: vec![AS_IT_IS.map(str::to_owned).into()],
            body: Default::default(),
            timeout: call.request_timeout,
            body_limit: PRICE_PAGE_BYTES,
        };
        match encoding::decoded(self.inner.send(request).await?, PRICE_PAGE_BYTES).0 {
            HttpOutcome::Answered(page) if page.is_success() => {
                Ok(serde_json::from_slice(&page.body).unwrap_or_default())
            }
            _ => Ok(Value::Null),
        }
    }

    /// As a purchase chooses: an open balance first, then the offer that the limits allow.
    async fn would_pay(
        &self,
        call: &PaidCall,
        endpoint: &Endpoint,
        usable: &Usable,
    ) -> Result<Choice> {
        let inner = &self.inner;
        let now = inner.now().await?;
        for (offer, _) in &usable.offers {
            let terms = (offer.provider, offer.price);
            if offer.price <= call.max_amount
                && inner.budget.check_call(offer.price).is_ok()
                && let Some(balance) =
                    inner.records.balance_for(&endpoint.origin, terms, now).await?
            {
                return Ok(Choice::Balance {
                    transaction_id: balance.transaction_id,
                    provider: offer.provider,
                    price: offer.price,
                    left: Usdc(balance.amount.0.saturating_sub(balance.used.0)),
                });
            }
        }
        let is_trusted = |provider| inner.is_trusted(&endpoint.origin, provider);
        let chosen = offer::choose(&usable.offers, inner.limits(call), is_trusted)
            .map_err(|error| usable.explain(error))?;
        inner.check_balance(chosen.amount).await?;
        inner.budget.check(chosen.amount, inner.records.spent(chosen.provider, now).await?)?;
        let calls = usable.offers.iter().find(|(offer, _)| *offer == chosen);
        let calls = calls.map_or(1, |(_, calls)| *calls);
        Ok(Choice::Offer(self.shown(endpoint, &chosen, calls)))
    }

    fn shown(&self, endpoint: &Endpoint, offer: &Offer, calls: u64) -> OfferedPayment {
        OfferedPayment {
            kind: offer.kind,
            provider: offer.provider,
            amount: offer.amount,
            price: offer.price,
            calls,
            lasts_seconds: offer.lasts,
            dispute_window_seconds: offer.dispute_window,
            signature_required: offer.signature_required,
            is_trusted: self.inner.is_trusted(&endpoint.origin, offer.provider),
            way_back: way_back(self.inner.client.network().terms, offer.amount, Rates::default()),
        }
    }
}
