#include "core/model/family.h"

#include <charconv>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr int64_t kTensorsMax = 200'000;
constexpr size_t kDigitsMax = 6;

// Takes a plain decimal number off the front of `text`.
std::optional<int32_t> TakeNumber(std::string_view& text) {
  size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  if (digits == 0 || digits > kDigitsMax || (digits > 1 && text[0] == '0')) return std::nullopt;
  int32_t number = 0;
  std::from_chars(text.data(), text.data() + digits, number);
  text.remove_prefix(digits);
  return number;
}

bool Matches(std::string_view pattern, std::string_view name, TensorPlace& place) {
  while (true) {
    const size_t brace = pattern.find('{');
    const std::string_view literal = pattern.substr(0, brace);
    if (!name.starts_with(literal)) return false;
    name.remove_prefix(literal.size());
    if (brace == std::string_view::npos) return name.empty();
    const std::optional<int32_t> number = TakeNumber(name);
    if (!number) return false;
    (pattern[brace + 1] == 'L' ? place.layer : place.expert) = *number;
    pattern.remove_prefix(brace + 3);
  }
}

bool InLayer(const TensorRow& row) { return row.name.find("{L}") != std::string_view::npos; }
bool PerExpert(const TensorRow& row) { return row.name.find("{E}") != std::string_view::npos; }

int64_t SizeOf(Dim dim, const v1::ModelSpec& spec) {
  switch (dim) {
    case Dim::kNone:
      return 0;
    case Dim::kHidden:
      return spec.hidden_size();
    case Dim::kIntermediate:
      return spec.intermediate_size();
    case Dim::kQuery:
      return spec.head_count() * spec.head_dim();
    case Dim::kKeyValue:
      return spec.kv_head_count() * spec.head_dim();
    case Dim::kHeadDim:
      return spec.head_dim();
    case Dim::kFusedQkv:
      return (spec.head_count() + 2 * spec.kv_head_count()) * spec.head_dim();
    case Dim::kVocab:
      return spec.vocab_size();
    case Dim::kExperts:
      return spec.expert_count();
    case Dim::kAllExperts:
      return spec.expert_count() * spec.intermediate_size();
  }
  return 0;
}

int64_t ExpectedCount(const Family& family, const v1::ModelSpec& spec) {
  int64_t count = 0;
  for (const TensorRow& row : family.rows) {
    if (!IsPresent(row, spec)) continue;
    count += (InLayer(row) ? spec.layer_count() : 1) * (PerExpert(row) ? spec.expert_count() : 1);
  }
  return count;
}

}  // namespace

const Family* FamilyByName(std::string_view name) {
  for (const Family& family : Families()) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

const Family* FamilyByModelType(std::string_view model_type) {
  for (const Family& family : Families()) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

std::string FamilyNames() {
  std::string names;
  for (const Family& family : Families()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", family.name);
  }
  return names;
}

void SetFamilyFacts(const Family& family, v1::ModelSpec& spec) {
  spec.set_family(std::string(family.name));
  spec.set_architecture(std::string(family.architecture));
  spec.set_layer_norm(family.layer_norm);
  if (family.keys.attention_bias.empty()) spec.set_attention_bias(family.attention_bias_default);
  if (family.keys.mlp_bias.empty()) spec.set_mlp_bias(false);
  if (family.keys.expert_weight_norm.empty()) {
    spec.set_normalized_experts(family.normalized_experts);
  }
}

std::optional<TensorPlace> RoleOf(std::string_view name, const Family& family,
                                  const v1::ModelSpec& spec) {
  for (const TensorRow& row : family.rows) {
    TensorPlace place{.row = &row, .role = row.role};
    if (!Matches(row.name, name, place)) continue;
    if (row.presence == Presence::kUntied && spec.tied_embeddings()) place.role = v1::IGNORED;
    return place;
  }
  return std::nullopt;
}

std::optional<TensorPlace> RoleOf(std::string_view name, const v1::ModelSpec& spec) {
  const Family* family = FamilyByName(spec.family());
  return family == nullptr ? std::nullopt : RoleOf(name, *family, spec);
}

std::string TensorName(const TensorRow& row, int32_t layer, int32_t expert) {
  std::string name;
  std::string_view rest = row.name;
  for (size_t brace; (brace = rest.find('{')) != std::string_view::npos;) {
    name += fmt::format("{}{}", rest.substr(0, brace), rest[brace + 1] == 'L' ? layer : expert);
    rest.remove_prefix(brace + 3);
  }
  return name.append(rest);
}

std::vector<int64_t> ShapeOf(const TensorRow& row, const v1::ModelSpec& spec) {
  std::vector<int64_t> shape;
  for (const Dim dim : {row.rows, row.columns}) {
    if (dim != Dim::kNone) shape.push_back(SizeOf(dim, spec));
  }
  return shape;
}

int32_t SpellingOf(std::string_view name, const Family& family) {
  for (const TensorRow& row : family.rows) {
    TensorPlace ignored;
    if (row.spelling > 0 && Matches(row.name, name, ignored)) return row.spelling;
  }
  return 0;
}

bool IsPresent(const TensorRow& row, const v1::ModelSpec& spec) {
  if (row.spelling != TensorRow::kEverySpelling && row.spelling != spec.spelling()) return false;
  switch (row.presence) {
    case Presence::kAlways:
      return true;
    case Presence::kUntied:
      return !spec.tied_embeddings();
    case Presence::kAttentionBias:
      return spec.attention_bias();
    case Presence::kMlpBias:
      return spec.mlp_bias();
    case Presence::kIgnored:
      return false;
  }
  return false;
}

absl::StatusOr<std::vector<ExpectedTensor>> ExpectedTensors(const v1::ModelSpec& spec) {
  OCTAVO_RETURN_IF_ERROR(CheckSpec(spec, "config.json"));
  const Family& family = *FamilyByName(spec.family());
  std::vector<ExpectedTensor> tensors;
  tensors.reserve(static_cast<size_t>(ExpectedCount(family, spec)));
  auto add = [&](const TensorRow& row, int32_t layer) {
    if (!IsPresent(row, spec)) return;
    const bool experts = PerExpert(row);
    for (int32_t e = 0; e < (experts ? static_cast<int32_t>(spec.expert_count()) : 1); ++e) {
      const int32_t expert = experts ? e : -1;
      tensors.push_back(
          {TensorName(row, layer, expert), row.role, layer, expert, ShapeOf(row, spec)});
    }
  };
  size_t i = 0;
  for (; i < family.rows.size() && !InLayer(family.rows[i]); ++i) add(family.rows[i], -1);
  size_t layer_end = i;
  while (layer_end < family.rows.size() && InLayer(family.rows[layer_end])) ++layer_end;
  for (int32_t layer = 0; layer < spec.layer_count(); ++layer) {
    for (size_t r = i; r < layer_end; ++r) add(family.rows[r], layer);
  }
  for (i = layer_end; i < family.rows.size(); ++i) add(family.rows[i], -1);
  return tensors;
}

uint64_t OrderKey(const TensorPlace& place, const Family& family) {
  const uint64_t row = static_cast<uint64_t>(place.row - family.rows.data());
  uint64_t section = 1;
  if (!InLayer(*place.row)) {
    section = 0;
    for (uint64_t r = 0; r < row; ++r) {
      if (InLayer(family.rows[r])) section = 2;
    }
  }
  if (place.role == v1::IGNORED) section = 3;
  return section << 56 | static_cast<uint64_t>(place.layer + 1) << 32 | row << 24 |
         static_cast<uint64_t>(place.expert + 1);
}

absl::Status CheckSpec(const v1::ModelSpec& spec, std::string_view file) {
  const Family* family = FamilyByName(spec.family());
  if (family == nullptr) {
    return MakeError(Reason::kUnsupported,
                     fmt::format("model family \"{}\" is not supported yet", spec.family()),
                     {.file = file}, fmt::format("Supported: {}", FamilyNames()));
  }
  const ConfigKeys& keys = family->keys;
  struct Bound {
    std::string_view key;
    int64_t value, least, most;
  };
  const Bound bounds[] = {
      {keys.hidden_size, spec.hidden_size(), 1, 1 << 24},
      {keys.intermediate_size, spec.intermediate_size(), 1, 1 << 24},
      {keys.layer_count, spec.layer_count(), 1, 4096},
      {keys.head_count, spec.head_count(), 1, 1 << 14},
      {keys.kv_head_count, spec.kv_head_count(), 1, 1 << 14},
      {keys.head_dim, spec.head_dim(), 2, 1 << 12},
      {keys.vocab_size, spec.vocab_size(), 1, 1 << 24},
      {keys.max_position, spec.max_position(), 1, 1 << 28},
      {keys.expert_count, spec.expert_count(), keys.expert_count.empty() ? 0 : 1, 4096},
      {keys.experts_per_token, spec.experts_per_token(), spec.expert_count() > 0 ? 1 : 0,
       spec.expert_count()},
  };
  auto bad = [&](const std::string& what) {
    return MakeError(Reason::kBadCheckpoint, what, {.file = file},
                     "Restore config.json from the model's source");
  };
  for (const Bound& bound : bounds) {
    if (bound.value < bound.least || bound.value > bound.most) {
      return bad(
          fmt::format("{} {} is outside {}..{}", bound.key, bound.value, bound.least, bound.most));
    }
  }
  if (spec.head_count() % spec.kv_head_count() != 0) {
    return bad(fmt::format("{} {} is no multiple of {} {}", keys.head_count, spec.head_count(),
                           keys.kv_head_count, spec.kv_head_count()));
  }
  if (spec.head_dim() % 2 != 0) {
    return bad(fmt::format("{} {} is odd", keys.head_dim, spec.head_dim()));
  }
  if (const int64_t count = ExpectedCount(*family, spec); count > kTensorsMax) {
    return bad(
        fmt::format("{} tensors are more than the {} a checkpoint may have", count, kTensorsMax));
  }
  return absl::OkStatus();
}

}  // namespace octavo
