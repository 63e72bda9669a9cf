//! Whether a settlement is worth its gas.

use crate::{error::Result, kernel::Kernel, protocol::Usdc};

/// What a settlement uses at most, measured: the first one of a registered provider, where the archive
/// treasury is set.
const SETTLE_GAS: u128 = 326_277;
/// Where moves cost gas and nobody said how much a settlement must bring: a cent.
const USUAL_MIN_NET: Usdc = Usdc(10_000);
/// Wei in one whole coin.
const COIN: u128 = 1_000_000_000_000_000_000;

/// What a settlement must bring its provider to be sent.
///
/// What is not worth its gas waits: on a chain whose gas becomes cheaper, it is settled then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettlementLimits {
    /// The least that arrives, after the protocol's fee. By default 0.01 USDC where moves cost gas, and
    /// nothing elsewhere.
    pub min_net: Option<Usdc>,
    /// What one whole coin of the chain costs (1 ETH on Base), in USDC. Where it is given, a settlement
    /// also waits while its gas costs more than it brings, at the price that the node says.
    pub coin_price: Option<Usdc>,
}

/// What a settlement must bring at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastNet {
    /// The least that must arrive.
    pub net: Usdc,
    /// Wei per unit of gas, as the node says; `None` where moves cost no gas.
    pub gas_price: Option<u128>,
}

impl SettlementLimits {
    /// Asks the kernel what gas costs, and tells what a settlement must bring.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn least_net(&self, kernel: &dyn Kernel) -> Result<LeastNet> {
        let gas_price = kernel.gas_price().await?;
        Ok(LeastNet { net: self.at(gas_price), gas_price })
    }

    fn at(&self, gas_price: Option<u128>) -> Usdc {
        let Some(gas_price) = gas_price else { return self.min_net.unwrap_or_default() };
        let min_net = self.min_net.unwrap_or(USUAL_MIN_NET);
        let wei = gas_price.saturating_mul(SETTLE_GAS);
        let cost = |coin: Usdc| wei.saturating_mul(coin.0.into()).div_ceil(COIN);
        let cost = self.coin_price.map_or(0, cost);
        min_net.max(Usdc(u64::try_from(cost).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    #[test]
    fn a_settlement_must_bring_what_its_gas_costs() {
        let limits = SettlementLimits { min_net: None, coin_price: Some(Usdc(3_000_000_000)) };
        // 326,277 gas at 1 gwei are 0.000326277 ETH: 0.978831 USDC.
        assert_eq!(limits.at(Some(GWEI)), Usdc(978_831));
        assert_eq!(limits.at(Some(GWEI / 1_000)), USUAL_MIN_NET);
        assert_eq!(limits.at(Some(u128::MAX)), Usdc(u64::MAX));
        assert_eq!(limits.at(None), Usdc::ZERO);
    }

    #[test]
    fn without_a_price_of_the_coin_the_least_net_is_what_was_set() {
        let limits = SettlementLimits { min_net: Some(Usdc(1)), coin_price: None };
        assert_eq!(limits.at(Some(1_000 * GWEI)), Usdc(1));
        assert_eq!(limits.at(None), Usdc(1));
        assert_eq!(SettlementLimits::default().at(Some(GWEI)), USUAL_MIN_NET);
    }
}
