//! Payments of keys that the provider used before: each is served, delivered, settled and given back
//! under its own key, by a paywall of its own behind this one. And payments of keys that nobody has.

use std::sync::Arc;

use super::{
    Inner,
    event::Level,
    lock,
    rejection::{Refused, Rejection},
    request::{Incoming, parse_id},
    store::Stranger,
};
use crate::{error::Result, protocol::TransactionId};

impl Inner {
    /// This paywall, and those of former keys.
    pub(super) fn all(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        [self].into_iter().chain(&self.former)
    }

    /// The paywall of the key that a request's payment is made to: a former one's, or `None`.
    pub(super) async fn former_of(&self, incoming: &Incoming) -> Option<&Arc<Self>> {
        if self.former.is_empty() || !incoming.is_paid() {
            return None;
        }
        // An x402 payload names whom it pays.
        let network = self.client.network();
        let providers = [self].into_iter().chain(self.former.iter().map(|former| &**former));
        let id = providers
            .filter_map(|inner| incoming.payment(network, inner.client.address()).ok())
            .find_map(|payment| parse_id(&payment.transaction_id))?;
        self.former_paid_by(id).await
    }

    /// The same for a transaction.
    pub(super) async fn former_paid_by(&self, id: TransactionId) -> Option<&Arc<Self>> {
        if self.former.is_empty() || self.remembers(id) {
            return None;
        }
        if let Some(known) = self.former_with(id).await {
            return Some(known);
        }
        // One that is new: its provider is in its transaction, which is then remembered.
        match self.verify(id).await {
            Err(Refused(rejection, _))
                if rejection.reason == Rejection::other_provider().reason =>
            {
                for former in &self.former {
                    if former.verify(id).await.is_ok() {
                        return Some(former);
                    }
                }
                None
            }
            _ => None,
        }
    }

    /// The paywall of a former key that knows this payment already.
    pub(super) async fn former_with(&self, id: TransactionId) -> Option<&Arc<Self>> {
        if let Some(former) = self.former.iter().find(|former| former.remembers(id)) {
            return Some(former);
        }
        for former in &self.former {
            if let Ok(Some(_)) = former.payment_of(id).await {
                return Some(former);
            }
        }
        None
    }

    /// The paywall whose key is paid by this transaction.
    ///
    /// # Errors
    /// Those of the kernel, where no store knows it.
    pub(super) async fn whose(self: &Arc<Self>, id: TransactionId) -> Result<&Arc<Self>> {
        if self.former.is_empty() || self.store.payment(id).await?.is_some() {
            return Ok(self);
        }
        if let Some(former) = self.former_with(id).await {
            return Ok(former);
        }
        let provider = self.client.get_transaction(id).await?.provider;
        let former = self.former.iter().find(|former| former.client.address() == provider);
        Ok(former.unwrap_or(self))
    }

    /// Looks for payments in the same place that only another key can move, and tells of them where
    /// they changed.
    pub(super) async fn look_for_strangers(self: Arc<Self>) {
        let found = match self.store.strangers().await {
            Ok(found) => found,
            Err(error) => {
                let words = format!("the payments of other keys beside this store: {error}");
                return self.listener.tell(Level::Warning, words);
            }
        };
        let is_former = |stranger: &Stranger| {
            self.former.iter().any(|former| former.client.address() == stranger.provider)
        };
        let found: Vec<_> = found.into_iter().filter(|found| !is_former(found)).collect();
        let known = std::mem::replace(&mut *lock(&self.strangers), found.clone());
        for stranger in found.iter().filter(|found| !known.contains(found)) {
            let Stranger { provider, payments, amount } = stranger;
            let words = format!(
                "beside this store lie {payments} payments over {amount} USDC to {provider}, whose key this \
                 paywall does not have, and no process that does: calls with them are refused, and nobody \
                 delivers them or gives them back. If it is a former key of this service, name it in \
                 former_clients; if it is another service's, start that"
            );
            self.listener.tell(Level::Error, words);
        }
    }

    /// What former keys have open still, as `/health` shows it: provider, payments, owed on chain.
    pub(super) async fn former_backlogs(&self) -> Result<Vec<(String, u64, u64)>> {
        let mut all = vec![];
        for former in &self.former {
            let backlog = former.backlog().await?;
            let owed = backlog.deliveries + backlog.returns;
            all.push((former.client.address().to_string(), backlog.open, owed));
        }
        Ok(all)
    }
}
