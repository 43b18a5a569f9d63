// octavo convert-dialect SRC DST --dialect D; octavo dequantize SRC DST

#include "core/checkpoint/convert_dialect.h"

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "core/base/status.h"
#include "core/checkpoint/summary.h"
#include "core/scheme/legality.h"
#include "core/store/local_store.h"
#include "fmt/format.h"

namespace octavo {

void AddConvertDialect(CLI::App& app, Context& context) {
  struct Flags {
    std::string source;
    std::string out;
    std::string dialect;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "convert-dialect", "A quantized folder in another dialect, with the same codes");
  command->add_option("SRC", flags->source, "A quantized folder")->required();
  command->add_option("DST", flags->out, "Folder to make")->required();
  const std::vector<std::string> names(DialectNames().begin(), DialectNames().end());
  command->add_option("--dialect", flags->dialect, "compressed-tensors, fp8 or quark")
      ->required()
      ->check(CLI::IsMember(names));
  command->callback([&context, flags] {
    context.action = [flags]() -> absl::Status {
      LocalStore store;
      OCTAVO_ASSIGN_OR_RETURN(const Conversion done,
                              ConvertDialect(store, flags->source, flags->dialect, flags->out));
      fmt::print("{}: {} instead of {}, {} tensors, {} of them scales, {}\n", flags->out,
                 flags->dialect, done.from, done.tensors, done.scales, HumanBytes(done.bytes));
      return absl::OkStatus();
    };
  });
}

void AddDequantize(CLI::App& app, Context& context) {
  struct Flags {
    std::string source;
    std::string out;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "dequantize", "A quantized folder with weights of the model's own type again");
  command->add_option("SRC", flags->source, "A quantized folder")->required();
  command->add_option("DST", flags->out, "Folder to make")->required();
  command->callback([&context, flags] {
    context.action = [flags]() -> absl::Status {
      LocalStore store;
      OCTAVO_ASSIGN_OR_RETURN(const Conversion done, Dequantize(store, flags->source, flags->out));
      fmt::print("{}: dequantized from {}, {} tensors, {}\n", flags->out, done.from, done.tensors,
                 HumanBytes(done.bytes));
      return absl::OkStatus();
    };
  });
}

}  // namespace octavo
