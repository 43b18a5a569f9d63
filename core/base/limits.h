#pragma once

// Every bound of the system that is not a flag, with its arithmetic.

#include <cstddef>
#include <cstdint>

namespace octavo {

// Checkpoints
inline constexpr uint64_t kSafetensorsHeaderMax = 100'000'000;  // the format's own limit
inline constexpr uint64_t kIndexFileMax = 256u << 20;           // model.safetensors.index.json
inline constexpr uint64_t kConfigFileMax = 16u << 20;
inline constexpr uint64_t kTokenizerFileMax = 64u << 20;
inline constexpr uint64_t kSideFileMax = 256u << 20;
inline constexpr int kJsonDepthMax = 64;

// Units: 16 MiB of source keeps a BF16 unit's buffers (source 16, codes 8, read-back 8) at 32 MiB,
// so that a worker with two units in flight works in 256 MiB with its libraries (about 80 MiB)
// beside them.
inline constexpr uint64_t kUnitSourceBytesMax = 16u << 20;
inline constexpr int64_t kUnitRowMultiple = 128;

// RPC
// The ids of 16,777,216 calibration tokens are 64 MiB, with the request around them; a Plan of
// 20,000 units is about 10 MiB.
inline constexpr int kGrpcMessageBytesMax = 80 << 20;
// Of a status: clients take 8 KiB of trailers, where the message stands twice, once with up to
// three bytes for each of its own and once in base64: 1,400 of them are 4.2 and 1.9 KB.
inline constexpr size_t kStatusMessageBytesMax = 1400;
inline constexpr uint32_t kBeatMs = 250;
inline constexpr uint32_t kLeaseMs = 750;
inline constexpr int kCollectiveTimeoutSeconds = 60;

// Serving
inline constexpr int kKvBlockTokens = 32;  // the key blocks of the numerics
// Defaults of serving: tokens of one step (cancellation and deadlines act within one, so it is kept
// short), and sequences that run at once.
inline constexpr int kBatchedTokens = 256;
inline constexpr int kSequencesMax = 64;
inline constexpr int kBatchedTokensLimit = 8192;  // what may be asked for
// Rows of logits and residual streams of a scored chunk stay under this, whatever the model.
inline constexpr uint64_t kScoreLogitsBytes = 32u << 20;
inline constexpr int kQueueRequestsMax = 256;
// Tokens of all waiting requests together; they are held twice, as 4 bytes each: 8 MiB.
inline constexpr uint64_t kQueueTokensMax = 1u << 20;
inline constexpr int kTopLogprobsMax = 20;
inline constexpr int kStopStringsMax = 16;
inline constexpr int kStopIdsMax = 1024;  // what end-of-text ids a model has included
inline constexpr int kLogitBiasMax = 1024;
inline constexpr int kChoicesMax = 16;  // of one request
// What a worker remembers of answers (some 10 bytes a token, more with alternatives) and of one
// request with all of its answers; what exceeds the latter cannot be taken up again.
inline constexpr size_t kTokenLogBytes = 16u << 20;
inline constexpr size_t kTokenLogRequestBytes = 4u << 20;
inline constexpr size_t kTokenLogRequests = 4096;

}  // namespace octavo
