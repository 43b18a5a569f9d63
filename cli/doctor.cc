// octavo doctor DIR: would it load, tensor by tensor.

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/folder_check.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/summary.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

struct DoctorFlags {
  std::string dir;
  bool quick = false;
};

absl::Status Doctor(const DoctorFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(flags.dir));
  fmt::print("headers: {} files, every tensor of a {} model is there with its shape\n",
             checkpoint.files.size(), checkpoint.model.family());
  OCTAVO_ASSIGN_OR_RETURN(const Quantization quantization,
                          ReadQuantization(checkpoint.config, checkpoint.tensors));
  const std::vector<TensorQuantization>& quantizations = quantization.tensors;
  uint64_t quantized = 0, warnings = 0;
  for (size_t i = 0; i < quantizations.size(); ++i) {
    if (!quantizations[i].quantized) continue;
    ++quantized;
    const v1::TensorSpec& spec = checkpoint.tensors[i].spec();
    if (spec.shape_size() != 2) continue;
    const std::string text =
        DimensionWarning(quantizations[i].scheme, spec.shape(0), spec.shape(1));
    if (text.empty()) continue;
    ++warnings;
    fmt::print("warning: {}: {}\n", spec.name(), text);
  }
  fmt::print("scales: {} quantized weights, each with its scale of the right type and shape\n",
             quantized);
  if (!quantization.cache_scales.empty()) {
    fmt::print("FP8 cache: scales of the keys and values of {} layers\n",
               quantization.cache_scales.size());
  }
  for (const Remark& remark : Summarize(checkpoint).remarks) {
    ++warnings;
    fmt::print("note: {}{}{}\n", remark.tensor, remark.tensor.empty() ? "" : ": ", remark.text);
  }
  OCTAVO_ASSIGN_OR_RETURN(const FolderCheck check, CheckFolder(flags.dir, !flags.quick));
  if (check.manifest) {
    fmt::print("manifest: {} files, {} {}\n", check.files, HumanBytes(check.bytes),
               flags.quick ? "of the right size" : "equal their digests");
  } else {
    fmt::print("manifest: none (not made by octavo quantize)\n");
  }
  fmt::print("{}: would load{}\n", flags.dir,
             warnings == 0 ? "" : fmt::format(", with {} remarks", warnings));
  return absl::OkStatus();
}

}  // namespace

void AddDoctor(CLI::App& app, Context& context) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command = app.add_subcommand("doctor", "Would a checkpoint load, tensor by tensor");
  command->add_option("DIR", flags->dir, "A checkpoint folder")->required();
  command->add_flag("--quick", flags->quick, "Compare sizes with the manifest, not digests");
  command->callback([&context, flags] { context.action = [flags] { return Doctor(*flags); }; });
}

}  // namespace octavo
