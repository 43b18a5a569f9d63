#pragma once

// Everything that can be wrong with a folder, and what the three readers make of it. One table
// (symptoms.cc): a new fact about a reader is an entry there.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/doctor/verdict.h"

namespace octavo {

enum class Symptom : uint8_t {
  // Files.
  kConfigMissing,
  kConfigMalformed,
  kConfigRejected,
  kFamilyUnknown,
  kWeightsMissing,
  kShardMissing,
  kShardNotIndexed,
  kIndexMissing,
  kIndexMalformed,
  kIndexNamesNothing,
  kIndexLacksTensor,
  kIndexNamesOtherFile,
  kHeaderMalformed,
  kTensorTwice,
  kTensorTwiceDiffers,
  kTokenizerMissing,
  kGenerationConfigMissing,
  // The model.
  kWeightMissing,
  kCodesMissing,
  kWeightMissingPlain,
  kTensorUnknown,
  kBiasUnknown,
  kWeightShape,
  kSizesUnquantized,
  kSizeHidden,
  kSizeHeadsSmaller,
  kSizeHeadsLarger,
  kSizeKvHeadsSmaller,
  kSizeKvHeadsLarger,
  kSizeVocabularySmaller,
  kSizeVocabularyLarger,
  kSizeMlpSmaller,
  kSizeMlpLarger,
  kLayersFewer,
  kHeadDiffers,
  kHeadStray,
  kWeightNotFinite,
  // What quantization_config says.
  kQuantizationGone,
  kQuantizationOldKey,
  kMethodUnknown,
  kMethodMissing,
  kMethodNotInTransformers,
  kGroupsMissing,
  kStatusOpen,
  kStatusMissing,
  kFormatUnknown,
  kFormatDense,
  kFormatPacked,
  kPacked,
  kSparsityDense,
  kSparsityBitmask,
  kSparsity,
  kArgsUnknownKey,
  kActorder,
  kAsymmetricWeights,
  kAsymmetricInputs,
  kBits,
  kStrategy,
  kStaticInt8Inputs,
  kInt8WeightOnly,
  kInputsPerTensor,
  kOutputsQuantized,
  kKeptByPattern,
  kKeptByGlob,
  kTargetPattern,
  kGroupKeptInPart,
  kGroupSchemes,
  kHeadNotKept,
  kHeadUnnamed,
  kHeadBlocks,
  kRouterNotKept,
  kCacheScheme,
  kActivationMissing,
  kActivationNull,
  kBlocksStatic,
  kFloatFormat,
  kQuarkSectionMissing,
  kQuarkListMissing,
  kQuarkCacheGroup,
  kNotExported,
  kPerTensorFp8,
  kStacksInTransformers,
  // Scales and codes.
  kScaleMissing,
  kScaleShape,
  kScaleBroadcasts,
  kScalePerChannel,
  kScaleGrid,
  kScaleOneAxis,
  kScaleScalar,
  kScaleTwoAxes,
  kScaleInteger,
  kScaleDouble,
  kScaleNotFinite,
  kScaleZero,
  kScaleNegative,
  kScaleTiny,
  kInputScaleMissing,
  kInputScaleMissingInGroup,
  kInputScaleShape,
  kInputScaleValue,
  kInputScaleNegative,
  kInputScaleTiny,
  kScaleSurplus,
  kZeroPointSurplus,
  kCacheScaleMissing,
  kCacheScaleShape,
  kCacheScaleValue,
  kCacheScaleNegative,
  kCacheAsOutputs,
  kCacheUnannounced,
  kWeightFloat,
  kWeightFloatBesideScale,
  kWeightOtherCodes,
  kCodesUnannounced,
  kCodesKept,
  kIntegersUnannounced,
  kCodesBare,
  kCodeNan,
  kCodeLowest,
  kBlocksRagged,
  kGroupsRagged,
};

struct Claim {
  Verdict verdict;
  Basis basis;
};

struct Rule {
  Symptom symptom;
  std::string_view code;        // "scale-missing": in --json and docs/compatibility/doctor.md
  std::array<Claim, 3> claims;  // by Reader
  std::string_view cure;
};

// In the order of the enum.
std::span<const Rule> Rules();
const Rule& RuleOf(Symptom symptom);

}  // namespace octavo
