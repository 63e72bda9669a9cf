// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

/// Asks a contract wallet whether a signature is its own, in one round trip and without being
/// deployed: sent as the `data` of an `eth_call` that has no `to`, its constructor asks and returns,
/// instead of code, one word: a `Finding`.
///
/// A signature that ends in the words of ERC-6492 brings a call that deploys the wallet, or prepares
/// it; that call is made where the wallet is not there or says no. Whatever is called here is
/// somebody else's: its gas is bounded, and no more than one word of its answer is read.
contract SignatureCheck {
    enum Finding {
        NoContract,
        Refused,
        Accepted
    }

    bytes32 private constant ERC6492 =
        0x6492649264926492649264926492649264926492649264926492649264926492;
    bytes4 private constant IS_VALID_SIGNATURE = 0x1626ba7e;
    uint256 private constant ASK_GAS = 1_000_000;
    uint256 private constant PREPARE_GAS = 1_500_000;

    constructor(address wallet, bytes32 hash, bytes memory signature) {
        Finding finding = find(wallet, hash, signature);
        assembly ("memory-safe") {
            mstore(0, finding)
            return(0, 32)
        }
    }

    function find(address wallet, bytes32 hash, bytes memory signature) private returns (Finding) {
        (bool isWrapped, address factory, bytes memory prepare, bytes memory inner) = unwrap(signature);
        if (!isWrapped) return ask(wallet, hash, signature);
        Finding finding = ask(wallet, hash, inner);
        if (finding == Finding.Accepted) return finding;
        callBounded(factory, prepare, PREPARE_GAS);
        return ask(wallet, hash, inner);
    }

    function ask(address wallet, bytes32 hash, bytes memory signature) private view returns (Finding) {
        if (wallet.code.length == 0) return Finding.NoContract;
        bytes memory question = abi.encodeWithSelector(IS_VALID_SIGNATURE, hash, signature);
        bool succeeded;
        bytes32 answer;
        assembly ("memory-safe") {
            mstore(0, 0)
            succeeded := staticcall(ASK_GAS, wallet, add(question, 32), mload(question), 0, 32)
            if lt(returndatasize(), 32) { succeeded := 0 }
            answer := mload(0)
        }
        return succeeded && answer == bytes32(IS_VALID_SIGNATURE) ? Finding.Accepted : Finding.Refused;
    }

    function callBounded(address to, bytes memory data, uint256 bound) private {
        assembly ("memory-safe") {
            pop(call(bound, to, 0, add(data, 32), mload(data), 0, 0))
        }
    }

    /// `abi.encode(address factory, bytes prepare, bytes inner)`, then the words of ERC-6492. What
    /// cannot be decoded reverts the whole check, which refuses it.
    function unwrap(bytes memory signature)
        private
        pure
        returns (bool isWrapped, address factory, bytes memory prepare, bytes memory inner)
    {
        uint256 length = signature.length;
        if (length < 32) return (false, factory, prepare, inner);
        bytes32 end;
        assembly ("memory-safe") {
            end := mload(add(signature, length))
        }
        if (end != ERC6492) return (false, factory, prepare, inner);
        assembly ("memory-safe") {
            mstore(signature, sub(length, 32))
        }
        (factory, prepare, inner) = abi.decode(signature, (address, bytes, bytes));
        isWrapped = true;
    }
}
