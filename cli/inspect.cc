// octavo inspect DIR: what is in a checkpoint, from its headers.

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/summary.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

std::string DTypeText(v1::DType dtype) { return std::string(Name(FromProto(dtype))); }

nlohmann::ordered_json ModelJson(const v1::ModelSpec& model) {
  return {{"family", model.family()},
          {"architecture", model.architecture()},
          {"layers", model.layer_count()},
          {"hidden_size", model.hidden_size()},
          {"intermediate_size", model.intermediate_size()},
          {"heads", model.head_count()},
          {"kv_heads", model.kv_head_count()},
          {"head_dim", model.head_dim()},
          {"vocab_size", model.vocab_size()},
          {"max_position", model.max_position()},
          {"tied_embeddings", model.tied_embeddings()}};
}

struct Schemes {
  std::map<std::string, uint64_t> weights;  // "FP8 channel / FP8 token dynamic" -> how many
  uint64_t bitmasks = 0;                    // of these, stored as sparse-24-bitmask
  bool fp8_cache = false;                   // keys and values have scales
};

absl::StatusOr<Schemes> SchemesOf(const Checkpoint& checkpoint) {
  Schemes schemes;
  OCTAVO_ASSIGN_OR_RETURN(const Quantization quantization,
                          ReadQuantization(checkpoint.config, checkpoint.tensors));
  for (const TensorQuantization& one : quantization.tensors) {
    if (one.quantized) ++schemes.weights[SchemeText(one.scheme)];
  }
  for (const v1::ModelTensor& tensor : checkpoint.tensors) {
    schemes.bitmasks += tensor.spec().has_bitmask() ? 1 : 0;
  }
  schemes.fp8_cache = !quantization.cache_scales.empty();
  return schemes;
}

void PrintJson(const Checkpoint& checkpoint, const CheckpointSummary& summary,
               const Schemes& schemes) {
  nlohmann::ordered_json json = {{"model", ModelJson(checkpoint.model)},
                                 {"tensors", summary.tensors},
                                 {"parameters", summary.parameters},
                                 {"bytes", summary.bytes},
                                 {"file_bytes", summary.file_bytes},
                                 {"files", checkpoint.files.size()},
                                 {"scale_tensors", summary.scale_tensors},
                                 {"kv_bytes_per_token", summary.kv_bytes_per_token},
                                 {"fp8_cache", schemes.fp8_cache},
                                 {"sparse_24_bitmasks", schemes.bitmasks},
                                 {"roles", nlohmann::ordered_json::array()},
                                 {"dtypes", nlohmann::ordered_json::object()},
                                 {"schemes", nlohmann::ordered_json::object()},
                                 {"remarks", nlohmann::ordered_json::array()}};
  for (const RoleSummary& role : summary.roles) {
    json["roles"].push_back({{"role", RoleName(role.role)},
                             {"dtype", DTypeText(role.dtype)},
                             {"shape", role.shape},
                             {"count", role.count},
                             {"parameters", role.parameters},
                             {"bytes", role.bytes}});
  }
  for (const DTypeSummary& dtype : summary.dtypes) {
    json["dtypes"][DTypeText(dtype.dtype)] = dtype.bytes;
  }
  for (const auto& [name, count] : schemes.weights) json["schemes"][name] = count;
  for (const Remark& remark : summary.remarks) {
    json["remarks"].push_back({{"tensor", remark.tensor}, {"text", remark.text}});
  }
  fmt::print("{}\n", json.dump());
}

void PrintText(const Checkpoint& checkpoint, const CheckpointSummary& summary,
               const Schemes& schemes) {
  const v1::ModelSpec& model = checkpoint.model;
  fmt::print("{}: {} ({})\n", checkpoint.dir, model.architecture(), model.family());
  fmt::print(
      "{} layers, hidden {}, MLP {}, {} heads of {} ({} KV), vocabulary {}{}, up to {} tokens\n",
      model.layer_count(), model.hidden_size(), model.intermediate_size(), model.head_count(),
      model.head_dim(), model.kv_head_count(), model.vocab_size(),
      model.tied_embeddings() ? " (tied)" : "", model.max_position());
  fmt::print("\n{:<16} {:<8} {:<16} {:>6} {:>10} {:>11}\n", "role", "dtype", "shape", "count",
             "params", "bytes");
  for (const RoleSummary& role : summary.roles) {
    fmt::print("{:<16} {:<8} {:<16} {:>6} {:>10} {:>11}\n", RoleName(role.role),
               DTypeText(role.dtype), fmt::format("{}", fmt::join(role.shape, "x")), role.count,
               HumanCount(role.parameters), HumanBytes(role.bytes));
  }
  fmt::print("\n");
  for (const DTypeSummary& dtype : summary.dtypes) {
    fmt::print("{}: {} tensors, {}\n", DTypeText(dtype.dtype), dtype.tensors,
               HumanBytes(dtype.bytes));
  }
  for (const auto& [name, count] : schemes.weights) fmt::print("{}: {} weights\n", name, count);
  if (schemes.bitmasks > 0) {
    fmt::print("{} of them 2:4, stored as sparse-24-bitmask\n", schemes.bitmasks);
  }
  fmt::print("total: {} tensors, {} parameters, {} in {} files, {} side files\n", summary.tensors,
             HumanCount(summary.parameters), HumanBytes(summary.file_bytes),
             checkpoint.files.size(), checkpoint.side_files.size());
  fmt::print("KV cache: {} per token (BF16){}\n", HumanBytes(summary.kv_bytes_per_token),
             schemes.fp8_cache ? ", half of it as FP8: the checkpoint has scales" : "");
  for (const Remark& remark : summary.remarks) {
    fmt::print("note: {}{}{}\n", remark.tensor, remark.tensor.empty() ? "" : ": ", remark.text);
  }
}

absl::Status Inspect(const std::string& dir, bool json) {
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(dir));
  OCTAVO_ASSIGN_OR_RETURN(const Schemes schemes, SchemesOf(checkpoint));
  const CheckpointSummary summary = Summarize(checkpoint);
  if (json) {
    PrintJson(checkpoint, summary, schemes);
  } else {
    PrintText(checkpoint, summary, schemes);
  }
  return absl::OkStatus();
}

}  // namespace

void AddInspect(CLI::App& app, Context& context) {
  struct Flags {
    std::string dir;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("inspect", "What is in a checkpoint");
  command->add_option("DIR", flags->dir, "A checkpoint folder")->required();
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback(
      [&context, flags] { context.action = [flags] { return Inspect(flags->dir, flags->json); }; });
}

}  // namespace octavo
