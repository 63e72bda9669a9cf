// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {ACTPKernel} from "./ACTPKernel.sol";
import {KernelRules} from "./KernelRules.sol";
import {Recovery} from "./Recovery.sol";

/// The kernel as deployed on Base Sepolia since 2026-06-24.
contract F6Kernel is ACTPKernel, Recovery {
    constructor(
        address admin_,
        address pauser_,
        address feeRecipient_,
        address agentRegistry_,
        address usdc_,
        uint256 recoveryGrace_
    ) ACTPKernel(admin_, pauser_, feeRecipient_, agentRegistry_, usdc_) Recovery(recoveryGrace_) {}

    // What `Recovery` says counts; Solidity wants it said where two ways lead to the same rules.

    function _checkDeadline(uint256 deadline) internal view override(KernelRules, Recovery) {
        Recovery._checkDeadline(deadline);
    }

    function _checkDeliveryTime(uint256 deadline) internal view override(KernelRules, Recovery) {
        Recovery._checkDeliveryTime(deadline);
    }

    function _isResolver() internal view override(KernelRules, Recovery) returns (bool) {
        return Recovery._isResolver();
    }

    function _fee(uint256 gross, uint256 bps) internal pure override(KernelRules, Recovery) returns (uint256) {
        return Recovery._fee(gross, bps);
    }
}
