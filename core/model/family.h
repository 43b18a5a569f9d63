#pragma once

// The families of models Octavo knows, as rows of a table: which tensors a checkpoint has, what
// each does, its shape, and under which keys config.json says so. A new family is a new row
// (families.cc), never a branch.
//
// Source: the tensor lists and config keys of the Hugging Face implementations.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

// A size of a tensor's axis, as a formula over a ModelSpec.
enum class Dim : uint8_t {
  kNone,          // the axis does not exist
  kHidden,        // hidden_size
  kIntermediate,  // intermediate_size (of one expert in a mixture)
  kQuery,         // head_count * head_dim
  kKeyValue,      // kv_head_count * head_dim
  kHeadDim,       // head_dim
  kFusedQkv,      // query + 2 * key_value
  kVocab,
  kExperts,
  kAllExperts,  // expert_count * intermediate_size: experts stacked in one tensor
};

// When a tensor is part of a checkpoint.
enum class Presence : uint8_t {
  kAlways,
  kUntied,         // when embeddings are not tied; a stray copy in a tied checkpoint is IGNORED
  kAttentionBias,  // when ModelSpec.attention_bias
  kMlpBias,        // when ModelSpec.mlp_bias
  kIgnored,        // may be there, is never read
};

// One kind of tensor. `name` holds "{L}" where the layer number goes and "{E}" where the expert
// number goes.
struct TensorRow {
  v1::TensorRole role;
  std::string_view name;
  Dim rows;
  Dim columns;  // kNone: one-dimensional
  Presence presence = Presence::kAlways;
  // Where checkpoints of one family differ in names: the row is only in those whose
  // ModelSpec.spelling is this.
  int32_t spelling = kEverySpelling;

  static constexpr int32_t kEverySpelling = -1;
};

// Where config.json says what; a path's parts are separated by '/'. An empty key: the family has no
// such fact.
struct ConfigKeys {
  std::string_view hidden_size = "hidden_size";
  std::string_view intermediate_size = "intermediate_size";
  std::string_view layer_count = "num_hidden_layers";
  std::string_view head_count = "num_attention_heads";
  std::string_view kv_head_count = "num_key_value_heads";
  std::string_view head_dim = "head_dim";
  std::string_view vocab_size = "vocab_size";
  std::string_view max_position = "max_position_embeddings";
  std::string_view norm_eps = "rms_norm_eps";
  std::string_view rope_theta = "rope_theta";
  std::string_view rope_scaling = "rope_scaling";
  std::string_view rope_parameters = "rope_parameters";
  std::string_view attention_bias = "attention_bias";
  std::string_view mlp_bias = "mlp_bias";
  std::string_view act = "hidden_act";
  std::string_view expert_count = "";
  std::string_view experts_per_token = "";
  std::string_view sliding_window = "";
  // A switch of the sliding window; without one the window always counts.
  std::string_view use_sliding_window = "";
  std::string_view clip_qkv = "";
  // The order of the norm that experts' weights are divided by: 1 is their sum, null none.
  std::string_view expert_weight_norm = "";
};

struct Family {
  std::string_view name;          // ModelSpec.family
  std::string_view model_type;    // config.json model_type
  std::string_view architecture;  // config.json architectures[0]
  std::span<const TensorRow>
      rows;  // outside-before, then per layer in this order, then outside-after
  ConfigKeys keys;
  // What config.json means where it does not say.
  bool attention_bias_default = false;
  int64_t kv_head_count_default = 0;  // 0: head_count
  int64_t head_dim_default = 0;       // 0: hidden_size / head_count
  double norm_eps_default = 1e-6;
  double rope_theta_default = 10000.0;
  int64_t max_position_default = 2048;
  int64_t sliding_window_default = 0;  // 0: none
  int64_t expert_count_default = 0;
  int64_t experts_per_token_default = 0;
  bool normalized_experts = false;
  // Facts that config.json never says.
  bool layer_norm = false;
};

// All rows of the table, and look-ups. FamilyByModelType is nullptr for a model_type without a row.
std::span<const Family> Families();
const Family* FamilyByName(std::string_view name);
const Family* FamilyByModelType(std::string_view model_type);
// "llama, ..." for messages.
std::string FamilyNames();

// Sets what is the same for every model of `family`, whatever its config.json says.
void SetFamilyFacts(const Family& family, v1::ModelSpec& spec);

// What a tensor's name says.
struct TensorPlace {
  const TensorRow* row = nullptr;
  v1::TensorRole role = v1::ROLE_UNSPECIFIED;
  int32_t layer = -1;
  int32_t expert = -1;
};

// The row whose pattern `name` matches; numbers are plain decimal without leading zeros, below
// 1,000,000. Nothing for a name the family does not have. `spec` decides presence: a kUntied tensor
// of a tied model comes back as IGNORED.
std::optional<TensorPlace> RoleOf(std::string_view name, const Family& family,
                                  const v1::ModelSpec& spec);
// The same, for the family `spec` names; nothing when that is not in the table.
std::optional<TensorPlace> RoleOf(std::string_view name, const v1::ModelSpec& spec);

// "model.layers.{L}..." with its numbers filled in.
std::string TensorName(const TensorRow& row, int32_t layer, int32_t expert);
// The shape `row` has in a model of `spec`.
std::vector<int64_t> ShapeOf(const TensorRow& row, const v1::ModelSpec& spec);
// The spelling of a checkpoint that has a tensor of this name; 0 for a name that says nothing.
int32_t SpellingOf(std::string_view name, const Family& family);
// False for kIgnored and for what `spec` does not have.
bool IsPresent(const TensorRow& row, const v1::ModelSpec& spec);

struct ExpectedTensor {
  std::string name;
  v1::TensorRole role = v1::ROLE_UNSPECIFIED;
  int32_t layer = -1;
  int32_t expert = -1;
  std::vector<int64_t> shape;
};

// Every tensor a checkpoint of `spec` must have, in model order: embedding, layers ascending with
// the family's order inside, final norm, head. The count is bounded by CheckSpec. Family not in the
// table: kUnsupported.
absl::StatusOr<std::vector<ExpectedTensor>> ExpectedTensors(const v1::ModelSpec& spec);

// Position of a tensor in model order (a key to sort by); IGNORED tensors come last.
uint64_t OrderKey(const TensorPlace& place, const Family& family);

// Sizes positive and bounded (so that no product of them overflows an int64), heads divisible by KV
// heads, head_dim even, known family. `file` is named in the error (kBadCheckpoint).
absl::Status CheckSpec(const v1::ModelSpec& spec, std::string_view file);

}  // namespace octavo
