//! Kernels that stand in front of another one: they do as it does, but for what a test wants changed.

/// Implements `Kernel` for a type with a field `kernel`. The methods that are written here are its own;
/// those that no such type changes go to the kernel behind.
macro_rules! kernel_in_front {
    (impl Kernel for $front:ty { $($own:tt)* }) => {
        #[async_trait::async_trait]
        impl agirails::kernel::Kernel for $front {
            $($own)*

            async fn events(
                &self,
                after: u64,
                limit: u32,
            ) -> agirails::Result<Vec<agirails::EventRecord>> {
                self.kernel.events(after, limit).await
            }
            async fn escrow(
                &self,
                id: agirails::TransactionId,
            ) -> agirails::Result<agirails::kernel::Escrow> {
                self.kernel.escrow(id).await
            }
            async fn delivery_proof(
                &self,
                id: agirails::TransactionId,
            ) -> agirails::Result<Option<agirails::protocol::proof::DeliveryProof>> {
                self.kernel.delivery_proof(id).await
            }
            async fn allowance(
                &self,
                owner: agirails::Address,
            ) -> agirails::Result<agirails::Usdc> {
                self.kernel.allowance(owner).await
            }
            async fn approve(
                &self,
                sender: agirails::Address,
                amount: agirails::Usdc,
            ) -> agirails::Result<()> {
                self.kernel.approve(sender, amount).await
            }
            async fn accept_quote(
                &self,
                sender: agirails::Address,
                id: agirails::TransactionId,
                amount: agirails::Usdc,
            ) -> agirails::Result<()> {
                self.kernel.accept_quote(sender, id, amount).await
            }
            async fn release_milestone(
                &self,
                sender: agirails::Address,
                id: agirails::TransactionId,
                amount: agirails::Usdc,
            ) -> agirails::Result<()> {
                self.kernel.release_milestone(sender, id, amount).await
            }
            async fn release_escrow(
                &self,
                sender: agirails::Address,
                id: agirails::TransactionId,
            ) -> agirails::Result<()> {
                self.kernel.release_escrow(sender, id).await
            }
            async fn recover_stalled(
                &self,
                sender: agirails::Address,
                id: agirails::TransactionId,
            ) -> agirails::Result<agirails::kernel::GasCost> {
                self.kernel.recover_stalled(sender, id).await
            }
            async fn anchor_attestation(
                &self,
                sender: agirails::Address,
                id: agirails::TransactionId,
                uid: agirails::B256,
            ) -> agirails::Result<()> {
                self.kernel.anchor_attestation(sender, id, uid).await
            }
            fn registry(&self) -> Option<&dyn agirails::kernel::AgentRegistry> {
                self.kernel.registry()
            }
        }
    };
}
