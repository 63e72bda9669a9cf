// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

/// Many calls in one transaction, with the interface of Multicall3, which stands on Base and most other chains
/// at 0xcA11bde05977b3631167028862bE2a173976CA11. The calls come from this contract.
contract Multicall {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool success, bytes memory returnData) = calls[i].target.call(calls[i].callData);
            require(success || calls[i].allowFailure, "Multicall3: call failed");
            results[i] = Result(success, returnData);
        }
    }
}
