#include "core/checkpoint/bitmask_storage.h"

#include <array>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/quantization_json.h"
#include "core/tensor/bare/two_of_four.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kKept = ".compressed";
constexpr std::string_view kBits = ".bitmask";
constexpr std::string_view kShape = ".shape";
constexpr std::string_view kAgain = "Quantize the model again, or download the folder again";

absl::Status Bad(const v1::TensorSpec& spec, std::string_view what) {
  return MakeError(Reason::kBadCheckpoint, what,
                   {.file = spec.file(), .tensor = spec.name(), .offset = spec.begin()}, kAgain);
}

bool HasShape(const v1::TensorSpec& spec, std::vector<int64_t> shape) {
  return std::vector<int64_t>(spec.shape().begin(), spec.shape().end()) == shape;
}

// The two numbers of X.shape.
absl::StatusOr<std::array<int64_t, 2>> ReadShape(const Store& store, const std::string& dir,
                                                 const v1::TensorSpec& spec) {
  if (spec.dtype() != v1::I64 || !(HasShape(spec, {2, 1}) || HasShape(spec, {2}))) {
    return Bad(spec, "the shape of a 2:4 weight is two I64 numbers");
  }
  std::array<int64_t, 2> shape{};
  OCTAVO_RETURN_IF_ERROR(store.ReadAt(JoinPath(dir, spec.file()), spec.begin(),
                                      std::as_writable_bytes(std::span(shape))));
  return shape;
}

// The matrix that the three are.
absl::StatusOr<v1::TensorSpec> Join(const Store& store, const std::string& dir,
                                    std::string_view module, v1::TensorSpec kept,
                                    const v1::TensorSpec& bits, const v1::TensorSpec& sizes) {
  if (kept.dtype() != v1::F8_E4M3 && kept.dtype() != v1::I8) {
    return MakeError(Reason::kUnsupported,
                     fmt::format("2:4 weights of dtype {}", Name(FromProto(kept.dtype()))),
                     {.file = kept.file(), .tensor = kept.name()},
                     "Octavo reads sparse-24-bitmask of FP8 and INT8 codes only");
  }
  OCTAVO_ASSIGN_OR_RETURN(const auto shape, ReadShape(store, dir, sizes));
  const auto [rows, columns] = shape;
  if (rows < 1 || columns < 4 || columns % 4 != 0 || !HasShape(kept, {rows, columns / 2})) {
    return Bad(kept, fmt::format("its shape [{}] is not that of a 2:4 weight of [{}, {}]",
                                 fmt::join(kept.shape(), ", "), rows, columns));
  }
  if (bits.dtype() != v1::U8 || !HasShape(bits, {rows, BitmaskRowBytes(columns)})) {
    return Bad(bits, fmt::format("its dtype and shape {} [{}] are not U8 [{}, {}]",
                                 Name(FromProto(bits.dtype())), fmt::join(bits.shape(), ", "), rows,
                                 BitmaskRowBytes(columns)));
  }
  kept.set_name(std::string(module) + ".weight");
  kept.set_shape(1, columns);
  kept.mutable_bitmask()->set_file(bits.file());
  kept.mutable_bitmask()->set_begin(bits.begin());
  kept.mutable_bitmask()->set_end(bits.end());
  return kept;
}

}  // namespace

bool SaysBitmasks(const ordered_json& config) {
  const ordered_json* section = FindMember(config, "quantization_config");
  const ordered_json* sparsity =
      section != nullptr ? FindMember(*section, "sparsity_config") : nullptr;
  return sparsity != nullptr && TextMember(*sparsity, "format") == kBitmaskFormat;
}

ordered_json SparsityConfigJson(const ordered_json& kept) {
  return {{"format", kBitmaskFormat},
          {"targets", {"Linear"}},
          {"ignore", kept},
          {"sparsity_structure", "2:4"}};
}

BitmaskParts BitmaskPartsOf(std::string_view module, DType codes, int64_t rows, int64_t columns) {
  const std::string name(module);
  return {{name + std::string(kKept), codes, {rows, columns / 2}},
          {name + std::string(kBits), DType::kU8, {rows, BitmaskRowBytes(columns)}},
          {name + std::string(kShape), DType::kI64, {2, 1}}};
}

std::string BitmaskShapeBytes(int64_t rows, int64_t columns) {
  const std::array<int64_t, 2> shape = {rows, columns};
  std::string bytes(sizeof(shape), '\0');
  std::memcpy(bytes.data(), shape.data(), sizeof(shape));
  return bytes;
}

absl::StatusOr<std::vector<v1::TensorSpec>> JoinBitmasks(const Store& store, const std::string& dir,
                                                         std::vector<v1::TensorSpec> tensors) {
  std::map<std::string, const v1::TensorSpec*, std::less<>> by_name;
  for (const v1::TensorSpec& tensor : tensors) by_name.emplace(tensor.name(), &tensor);
  const auto find = [&](std::string_view module, std::string_view part) {
    const auto found = by_name.find(std::string(module) + std::string(part));
    return found != by_name.end() ? found->second : nullptr;
  };
  std::vector<v1::TensorSpec> joined;
  for (const v1::TensorSpec& tensor : tensors) {
    const std::string_view name = tensor.name();
    for (const std::string_view part : {kBits, kShape}) {
      if (!name.ends_with(part)) continue;
      const std::string_view module = name.substr(0, name.size() - part.size());
      if (find(module, kKept) == nullptr) {
        return Bad(tensor, fmt::format("the {}{} that it belongs to is missing", module, kKept));
      }
    }
    if (name.ends_with(kBits) || name.ends_with(kShape)) continue;
    if (!name.ends_with(kKept)) {
      joined.push_back(tensor);
      continue;
    }
    const std::string_view module = name.substr(0, name.size() - kKept.size());
    const v1::TensorSpec* bits = find(module, kBits);
    const v1::TensorSpec* sizes = find(module, kShape);
    if (bits == nullptr || sizes == nullptr) {
      return Bad(tensor, fmt::format("its {} is missing", bits == nullptr ? "bitmask" : "shape"));
    }
    OCTAVO_ASSIGN_OR_RETURN(v1::TensorSpec whole, Join(store, dir, module, tensor, *bits, *sizes));
    joined.push_back(std::move(whole));
  }
  return joined;
}

uint64_t StoredBytes(const v1::TensorSpec& tensor) {
  return tensor.end() - tensor.begin() + tensor.bitmask().end() - tensor.bitmask().begin();
}

absl::Status ReadCodeRows(const Store& store, const std::string& dir, const v1::TensorSpec& tensor,
                          int64_t begin, int64_t count, std::vector<std::byte>* codes) {
  const int64_t columns = tensor.shape(1);
  codes->resize(static_cast<size_t>(count * columns));
  const std::string path = JoinPath(dir, tensor.file());
  if (!tensor.has_bitmask()) {
    return store.ReadAt(path, tensor.begin() + static_cast<uint64_t>(begin * columns), *codes);
  }
  const int64_t row_bits = BitmaskRowBytes(columns);
  std::vector<std::byte> kept(static_cast<size_t>(count * columns / 2));
  std::vector<std::byte> bits(static_cast<size_t>(count * row_bits));
  const uint64_t at = tensor.bitmask().begin() + static_cast<uint64_t>(begin * row_bits);
  OCTAVO_RETURN_IF_ERROR(
      store.ReadAt(path, tensor.begin() + static_cast<uint64_t>(begin * columns / 2), kept));
  OCTAVO_RETURN_IF_ERROR(store.ReadAt(JoinPath(dir, tensor.bitmask().file()), at, bits));
  for (int64_t row = 0; row < count; ++row) {
    const int64_t wrong =
        ExpandTwoOfFour(reinterpret_cast<const uint8_t*>(kept.data()) + row * columns / 2,
                        reinterpret_cast<const uint8_t*>(bits.data()) + row * row_bits, columns,
                        reinterpret_cast<uint8_t*>(codes->data()) + row * columns);
    if (wrong < 0) continue;
    return MakeError(Reason::kBadCheckpoint, "a bitmask does not keep two of four columns",
                     {.file = tensor.bitmask().file(),
                      .tensor = tensor.name(),
                      .offset = at + static_cast<uint64_t>(row * row_bits + wrong / 8)},
                     kAgain);
  }
  return absl::OkStatus();
}

}  // namespace octavo
