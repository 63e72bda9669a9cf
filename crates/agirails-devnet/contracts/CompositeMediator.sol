// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {Aip14cKernel} from "./Aip14cKernel.sol";
import {KernelRules} from "./KernelRules.sol";
import {EscrowVault} from "./EscrowVault.sol";

/// Carries out on the kernel what a dispute ended with. The kernel must have approved it as a mediator.
///
/// Written anew from the description of AIP-14c's mediator, for tests: the events are ours.
contract CompositeMediator {
    uint8 private constant PROVIDER_WINS = 0;
    uint8 private constant REQUESTER_WINS = 1;
    uint256 private constant ALL_BPS = 10_000;

    Aip14cKernel public immutable kernel;
    address public immutable bondEscalation;

    event RulingCarriedOut(bytes32 indexed transactionId, uint8 ruling, uint256 toRequester, uint256 toProvider);

    constructor(address kernel_, address bondEscalation_) {
        require(kernel_ != address(0) && bondEscalation_ != address(0), "Zero address");
        kernel = Aip14cKernel(kernel_);
        bondEscalation = bondEscalation_;
    }

    /// A winner settles the transaction; a split cancels it, and finds nobody at fault.
    function resolve(bytes32 transactionId, uint8 ruling, uint16 splitBps) external {
        require(msg.sender == bondEscalation, "Only tier system");
        KernelRules.Transaction memory disputed = kernel.getTransaction(transactionId).transaction;
        uint256 remaining = EscrowVault(disputed.escrowContract).remaining(disputed.escrowId);
        // A kernel wants a resolution to give something, also where milestones have paid everything: it
        // moves nothing then.
        uint256 toShare = remaining == 0 ? 1 : remaining;
        uint256 toProvider = ruling == PROVIDER_WINS ? toShare : 0;
        if (ruling > REQUESTER_WINS) toProvider = toShare * splitBps / ALL_BPS;
        uint256 toRequester = toShare - toProvider;
        emit RulingCarriedOut(transactionId, ruling, remaining == 0 ? 0 : toRequester, remaining == 0 ? 0 : toProvider);
        if (ruling > REQUESTER_WINS) {
            bytes memory shares = abi.encode(toRequester, toProvider);
            kernel.resolveDisputeWhilePaused(transactionId, KernelRules.State.CANCELLED, shares);
        } else {
            bytes memory verdict = abi.encode(toRequester, toProvider, ruling == REQUESTER_WINS);
            kernel.resolveDisputeWhilePaused(transactionId, KernelRules.State.SETTLED, verdict);
        }
    }
}
