#include "core/doctor/symptoms.h"

namespace octavo {
namespace {

constexpr std::string_view kCureNone = "";
constexpr std::string_view kCureRestore = "Restore config.json from the model's source";
constexpr std::string_view kCureFamily =
    "Convert the model, or use a reader that knows the architecture";
constexpr std::string_view kCureFetch =
    "Download the checkpoint again, or quantize the model again";
constexpr std::string_view kCureRemoveFile =
    "Remove the file, or restore the index that belongs to it";
constexpr std::string_view kCureIndex =
    "Restore model.safetensors.index.json, or save the checkpoint again";
constexpr std::string_view kCureRemoveTensor = "Save the checkpoint again without it";
constexpr std::string_view kCureTokenizer = "Copy the tokenizer's files from the model's source";
constexpr std::string_view kCureRequantize = "Quantize the model again";
constexpr std::string_view kCureSizes =
    "config.json and weights do not belong together: restore the one that is wrong";
constexpr std::string_view kCureTie = "Set tie_word_embeddings to false, or remove the tensor";
constexpr std::string_view kCureConfig = "Restore quantization_config, or quantize the model again";
constexpr std::string_view kCureConvert =
    "`octavo convert-dialect DIR OUT --dialect compressed-tensors`";
constexpr std::string_view kCureEightBits = "Quantize the model to eight bits";
constexpr std::string_view kCureSparsity = "Remove sparsity_config: the weights are stored in full";
constexpr std::string_view kCureExpand =
    "`octavo convert-dialect DIR OUT --dialect compressed-tensors` stores the weights in full";
constexpr std::string_view kCureSymmetric = "Quantize the model again, symmetrically";
constexpr std::string_view kCureStrategy =
    "Quantize the model again with a scheme that all readers have";
constexpr std::string_view kCureNames = "List the modules by their full names";
constexpr std::string_view kCureNameHead = "Add lm_head to the targets of its group";
constexpr std::string_view kCureGroup =
    "Give all parts of the group one scheme, or keep all of them";
constexpr std::string_view kCureKeep = "List the module among those that stay";
constexpr std::string_view kCureUnkeep = "Take the module off the list of those that stay";
constexpr std::string_view kCureCache = "Calibrate the cache again, or remove kv_cache_scheme";
constexpr std::string_view kCureCalibrate = "Calibrate the model again";
constexpr std::string_view kCureReshape = "Save the scale in the shape that the dialect has for it";
constexpr std::string_view kCureCast = "Save the scale as F32";
constexpr std::string_view kCureBlocks = "Use a scale per channel, or sizes that the block divides";

// What the readers make of a symptom, one letter each for Octavo, vLLM and transformers: L loads, W
// loads and computes something else, R refuses, ? not judged. Capitals were seen in the reader
// itself (tests/oracle/check_doctor.py, doctor_vllm.py), small letters were not: they rest on its
// source.
consteval Claim ClaimOf(char letter) {
  const Basis basis = letter >= 'a' ? Basis::kSource : Basis::kSeen;
  switch (letter) {
    case 'L':
    case 'l':
      return {Verdict::kLoads, basis};
    case 'W':
    case 'w':
      return {Verdict::kLoadsWrong, basis};
    case 'R':
    case 'r':
      return {Verdict::kRefused, basis};
    default:
      return {Verdict::kUnknown, Basis::kSource};
  }
}
consteval std::array<Claim, 3> Claims(const char (&letters)[4]) {
  return {ClaimOf(letters[0]), ClaimOf(letters[1]), ClaimOf(letters[2])};
}

// Where a comment names a function, it is the reader's own.
constexpr Rule kRules[] = {
    // Files.
    // All three read it first.
    {Symptom::kConfigMissing, "config-missing", Claims("RrR"), kCureRestore},
    {Symptom::kConfigMalformed, "config-malformed", Claims("RrR"), kCureRestore},
    // Octavo says no; the others' own checks are not repeated here.
    {Symptom::kConfigRejected, "config-rejected", Claims("r??"), kCureRestore},
    {Symptom::kFamilyUnknown, "family-unknown", Claims("r??"), kCureFamily},
    {Symptom::kWeightsMissing, "weights-missing", Claims("RRR"), kCureFetch},
    // vLLM weight_utils.filter_duplicate_safetensors_files.
    {Symptom::kShardMissing, "shard-missing", Claims("RrR"), kCureFetch},
    // vLLM and transformers read what the index names and pass the rest by.
    {Symptom::kShardNotIndexed, "shard-not-indexed", Claims("RlL"), kCureRemoveFile},
    // vLLM takes every *.safetensors.
    {Symptom::kIndexMissing, "index-missing", Claims("RlR"), kCureIndex},
    {Symptom::kIndexMalformed, "index-malformed", Claims("RrR"), kCureIndex},
    // vLLM and transformers use the index for names of files only.
    {Symptom::kIndexNamesNothing, "index-names-nothing", Claims("RlL"), kCureIndex},
    {Symptom::kIndexLacksTensor, "index-lacks-tensor", Claims("RlL"), kCureIndex},
    {Symptom::kIndexNamesOtherFile, "index-names-other-file", Claims("RlL"), kCureIndex},
    // The safetensors library checks offsets, sizes and dtypes.
    {Symptom::kHeaderMalformed, "header-malformed", Claims("RrR"), kCureFetch},
    // The same bytes twice.
    {Symptom::kTensorTwice, "tensor-twice", Claims("RlL"), kCureRemoveTensor},
    // The others take the one they read last.
    {Symptom::kTensorTwiceDiffers, "tensor-twice-differs", Claims("RwW"), kCureRemoveTensor},
    // vLLM loads a tokenizer; Octavo serves ids without one; AutoModel needs none.
    {Symptom::kTokenizerMissing, "tokenizer-missing", Claims("LrL"), kCureTokenizer},
    {Symptom::kGenerationConfigMissing, "generation-config-missing", Claims("LlL"), kCureNone},
    // The model.
    // vLLM default_loader tracks weights of unquantized models only; transformers draws random
    // numbers.
    {Symptom::kWeightMissing, "weight-missing", Claims("RwW"), kCureFetch},
    // transformers cannot draw random codes.
    {Symptom::kCodesMissing, "codes-missing", Claims("RWR"), kCureFetch},
    // vLLM default_loader.track_weights_loading.
    {Symptom::kWeightMissingPlain, "weight-missing-plain", Claims("RrW"), kCureFetch},
    // vLLM AutoWeightsLoader raises; transformers warns.
    {Symptom::kTensorUnknown, "tensor-unknown", Claims("RrL"), kCureRemoveTensor},
    // vLLM AutoWeightsLoader passes .bias by.
    {Symptom::kBiasUnknown, "bias-unknown", Claims("RlL"), kCureRemoveTensor},
    {Symptom::kWeightShape, "weight-shape", Claims("RrR"), kCureRequantize},
    // Beside one of the following: transformers compares shapes of unquantized models only.
    {Symptom::kSizesUnquantized, "sizes-unquantized", Claims("rlR"), kCureSizes},
    {Symptom::kSizeHidden, "size-hidden", Claims("RrL"), kCureSizes},
    // vLLM narrows what is larger (parameter.py).
    {Symptom::kSizeHeadsSmaller, "size-heads-smaller", Claims("RwR"), kCureSizes},
    {Symptom::kSizeHeadsLarger, "size-heads-larger", Claims("RrL"), kCureSizes},
    {Symptom::kSizeKvHeadsSmaller, "size-kv-heads-smaller", Claims("RwL"), kCureSizes},
    {Symptom::kSizeKvHeadsLarger, "size-kv-heads-larger", Claims("rr?"), kCureSizes},
    {Symptom::kSizeVocabularySmaller, "size-vocabulary-smaller", Claims("RrL"), kCureSizes},
    {Symptom::kSizeVocabularyLarger, "size-vocabulary-larger", Claims("RrL"), kCureSizes},
    // vLLM narrows what is larger; transformers takes the tensors' sizes.
    {Symptom::kSizeMlpSmaller, "size-mlp-smaller", Claims("RwL"), kCureSizes},
    {Symptom::kSizeMlpLarger, "size-mlp-larger", Claims("RrL"), kCureSizes},
    // vLLM finds no such layer; transformers leaves the layers out.
    {Symptom::kLayersFewer, "layers-fewer", Claims("RrW"), kCureSizes},
    // transformers keeps a head that is there, the others take the embedding.
    {Symptom::kHeadDiffers, "head-differs", Claims("WwL"), kCureTie},
    {Symptom::kHeadStray, "head-stray", Claims("LlL"), kCureNone},
    {Symptom::kWeightNotFinite, "weight-not-finite", Claims("RwW"), kCureRequantize},
    // What quantization_config says.
    // vLLM has no place for the scales; transformers casts the codes.
    {Symptom::kQuantizationGone, "quantization-gone", Claims("RRW"), kCureConfig},
    // vLLM get_quant_config reads compression_config.
    {Symptom::kQuantizationOldKey, "quantization-old-key", Claims("RlW"), kCureConfig},
    // transformers warns, and casts the codes.
    {Symptom::kMethodUnknown, "method-unknown", Claims("RrW"), kCureConfig},
    {Symptom::kMethodMissing, "method-missing", Claims("RrR"), kCureConfig},
    // amd-quark is not installed.
    {Symptom::kMethodNotInTransformers, "method-not-in-transformers", Claims("LlR"), kCureConvert},
    {Symptom::kGroupsMissing, "groups-missing", Claims("RrR"), kCureConfig},
    // Without a word the status is not compressed: transformers looks for zero points.
    {Symptom::kStatusOpen, "status-open", Claims("RlW"), kCureConfig},
    {Symptom::kStatusMissing, "status-missing", Claims("LlW"), kCureConfig},
    // transformers infers the storage from the scheme.
    {Symptom::kFormatUnknown, "format-unknown", Claims("RrL"), kCureConfig},
    {Symptom::kFormatDense, "format-dense", Claims("RrL"), kCureConfig},
    {Symptom::kFormatPacked, "format-packed", Claims("RrL"), kCureConfig},
    {Symptom::kPacked, "packed", Claims("r??"), kCureEightBits},
    // vLLM _parse_sparsity_config.
    {Symptom::kSparsityDense, "sparsity-dense", Claims("LrL"), kCureSparsity},
    // transformers finds no weights, and cannot make codes up.
    {Symptom::kSparsityBitmask, "sparsity-bitmask", Claims("LrR"), kCureExpand},
    {Symptom::kSparsity, "sparsity", Claims("rr?"), kCureRequantize},
    // compressed-tensors' model of the arguments forbids other keys.
    {Symptom::kArgsUnknownKey, "args-unknown-key", Claims("LrR"), kCureConfig},
    // vLLM _quantization_scheme_map_from_config; compressed-tensors wants strategy group.
    {Symptom::kActorder, "actorder", Claims("LrR"), kCureConfig},
    {Symptom::kAsymmetricWeights, "asymmetric-weights", Claims("RrW"), kCureSymmetric},
    {Symptom::kAsymmetricInputs, "asymmetric-inputs", Claims("RlL"), kCureSymmetric},
    {Symptom::kBits, "bits", Claims("RrR"), kCureEightBits},
    {Symptom::kStrategy, "strategy", Claims("RrL"), kCureStrategy},
    {Symptom::kStaticInt8Inputs, "static-int8-inputs", Claims("rll"), kCureStrategy},
    // vLLM asserts float weights; transformers leaves packed weights uninitialised.
    {Symptom::kInt8WeightOnly, "int8-weight-only", Claims("RrW"), kCureStrategy},
    {Symptom::kInputsPerTensor, "inputs-per-tensor", Claims("RlL"), kCureStrategy},
    {Symptom::kOutputsQuantized, "outputs-quantized", Claims("r??"), kCureStrategy},
    {Symptom::kKeptByPattern, "kept-by-pattern", Claims("RlL"), kCureNames},
    // vLLM compares names exactly here; heads and routers stay anyway.
    {Symptom::kKeptByGlob, "kept-by-glob", Claims("Lll"), kCureNames},
    {Symptom::kTargetPattern, "target-pattern", Claims("RlL"), kCureNames},
    // vLLM is_layer_skipped, should_ignore_layer.
    {Symptom::kGroupKeptInPart, "group-kept-in-part", Claims("LRL"), kCureGroup},
    // vLLM find_matched_target.
    {Symptom::kGroupSchemes, "group-schemes", Claims("LrL"), kCureGroup},
    // vLLM's head is no Linear; in transformers it is.
    {Symptom::kHeadNotKept, "head-not-kept", Claims("RlW"), kCureKeep},
    // vLLM's head is no Linear: its codes find a plain head, its scales no place.
    {Symptom::kHeadUnnamed, "head-unnamed", Claims("LRL"), kCureNameHead},
    // vLLM VocabParallelEmbedding.weight_loader wants a row of scales for each of the vocabulary.
    {Symptom::kHeadBlocks, "head-blocks", Claims("Lrl"), kCureStrategy},
    // Neither of the two quantizes a router.
    {Symptom::kRouterNotKept, "router-not-kept", Claims("RlL"), kCureKeep},
    // vLLM validate_kv_cache_scheme.
    {Symptom::kCacheScheme, "cache-scheme", Claims("RrW"), kCureCache},
    // vLLM Fp8Config.from_config.
    {Symptom::kActivationMissing, "activation-missing", Claims("Rrl"), kCureConfig},
    {Symptom::kActivationNull, "activation-null", Claims("lrR"), kCureConfig},
    {Symptom::kBlocksStatic, "blocks-static", Claims("RrL"), kCureConfig},
    {Symptom::kFloatFormat, "float-format", Claims("Rll"), kCureConfig},
    {Symptom::kQuarkSectionMissing, "quark-section-missing", Claims("Rrl"), kCureConfig},
    {Symptom::kQuarkListMissing, "quark-list-missing", Claims("Lrl"), kCureConfig},
    {Symptom::kQuarkCacheGroup, "quark-cache-group", Claims("Rrl"), kCureConfig},
    {Symptom::kNotExported, "not-exported", Claims("Rll"), kCureConfig},
    // transformers' fp8 is the block form; it casts the codes and drops weight_scale.
    {Symptom::kPerTensorFp8, "per-tensor-fp8", Claims("LlW"), kCureConvert},
    {Symptom::kStacksInTransformers, "stacks-in-transformers", Claims("L?w"), kCureConvert},
    // Scales and codes.
    // vLLM's parameter keeps its first value; transformers draws random numbers.
    {Symptom::kScaleMissing, "scale-missing", Claims("RWW"), kCureRequantize},
    {Symptom::kScaleShape, "scale-shape", Claims("RRR"), kCureRequantize},
    // transformers multiplies as torch lays it over the weight.
    {Symptom::kScaleBroadcasts, "scale-broadcasts", Claims("RRW"), kCureRequantize},
    // One scale for each row where config.json says one for all.
    {Symptom::kScalePerChannel, "scale-per-channel", Claims("RrL"), kCureConfig},
    // transformers takes the size of the blocks from the shape.
    {Symptom::kScaleGrid, "scale-grid", Claims("RrL"), kCureConfig},
    {Symptom::kScaleOneAxis, "scale-one-axis", Claims("LRW"), kCureReshape},
    {Symptom::kScaleScalar, "scale-scalar", Claims("LlL"), kCureNone},
    {Symptom::kScaleTwoAxes, "scale-two-axes", Claims("LrL"), kCureReshape},
    {Symptom::kScaleInteger, "scale-integer", Claims("RWR"), kCureRequantize},
    {Symptom::kScaleDouble, "scale-double", Claims("RLL"), kCureCast},
    {Symptom::kScaleNotFinite, "scale-not-finite", Claims("RWW"), kCureRequantize},
    {Symptom::kScaleZero, "scale-zero", Claims("RWW"), kCureRequantize},
    {Symptom::kScaleNegative, "scale-negative", Claims("RWW"), kCureRequantize},
    {Symptom::kScaleTiny, "scale-tiny", Claims("WWW"), kCureRequantize},
    {Symptom::kInputScaleMissing, "input-scale-missing", Claims("RwW"), kCureCalibrate},
    // vLLM takes the largest of the group.
    {Symptom::kInputScaleMissingInGroup, "input-scale-missing-in-group", Claims("RlW"),
     kCureCalibrate},
    {Symptom::kInputScaleShape, "input-scale-shape", Claims("RrR"), kCureCalibrate},
    // Zero, NaN or infinite.
    {Symptom::kInputScaleValue, "input-scale-value", Claims("RwW"), kCureCalibrate},
    // It divides and multiplies.
    {Symptom::kInputScaleNegative, "input-scale-negative", Claims("RlL"), kCureCalibrate},
    {Symptom::kInputScaleTiny, "input-scale-tiny", Claims("WwW"), kCureCalibrate},
    // vLLM AutoWeightsLoader raises.
    {Symptom::kScaleSurplus, "scale-surplus", Claims("RRL"), kCureRemoveTensor},
    {Symptom::kZeroPointSurplus, "zero-point-surplus", Claims("RrL"), kCureRemoveTensor},
    // vLLM takes 1 and warns.
    {Symptom::kCacheScaleMissing, "cache-scale-missing", Claims("RlW"), kCureCache},
    {Symptom::kCacheScaleShape, "cache-scale-shape", Claims("RrL"), kCureCache},
    {Symptom::kCacheScaleValue, "cache-scale-value", Claims("RwW"), kCureCache},
    {Symptom::kCacheScaleNegative, "cache-scale-negative", Claims("RwL"), kCureCache},
    // The older spelling of compressed-tensors.
    {Symptom::kCacheAsOutputs, "cache-as-outputs", Claims("LlW"), kCureConvert},
    {Symptom::kCacheUnannounced, "cache-unannounced", Claims("RlL"), kCureCache},
    // vLLM casts it into its eight bits.
    {Symptom::kWeightFloat, "weight-float", Claims("RwW"), kCureKeep},
    {Symptom::kWeightFloatBesideScale, "weight-float-beside-scale", Claims("RwW"), kCureRequantize},
    {Symptom::kWeightOtherCodes, "weight-other-codes", Claims("RwW"), kCureRequantize},
    {Symptom::kCodesUnannounced, "codes-unannounced", Claims("RrW"), kCureConfig},
    {Symptom::kCodesKept, "codes-kept", Claims("RrW"), kCureUnkeep},
    {Symptom::kIntegersUnannounced, "integers-unannounced", Claims("RrR"), kCureConfig},
    // Without a scale the codes are the numbers.
    {Symptom::kCodesBare, "codes-bare", Claims("RlL"), kCureConfig},
    {Symptom::kCodeNan, "code-nan", Claims("RwW"), kCureRequantize},
    {Symptom::kCodeLowest, "code-lowest", Claims("LlL"), kCureNone},
    // vLLM validate_fp8_block_shape.
    {Symptom::kBlocksRagged, "blocks-ragged", Claims("Lrl"), kCureBlocks},
    // Inputs are cut into groups of 128.
    {Symptom::kGroupsRagged, "groups-ragged", Claims("LrR"), kCureBlocks},
};

}  // namespace

std::span<const Rule> Rules() { return kRules; }

const Rule& RuleOf(Symptom symptom) { return kRules[static_cast<size_t>(symptom)]; }

}  // namespace octavo
