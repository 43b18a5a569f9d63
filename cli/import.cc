// octavo import FILE.gguf --out DIR

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "core/base/status.h"
#include "core/checkpoint/gguf_to_hf.h"
#include "core/checkpoint/summary.h"
#include "fmt/format.h"

namespace octavo {

void AddImport(CLI::App& app, Context& context) {
  struct Flags {
    std::string file;
    std::string out;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("import", "GGUF to a Hugging Face BF16 checkpoint");
  command->add_option("FILE", flags->file, "A .gguf file")->required();
  command->add_option("--out", flags->out, "Folder to make")->required();
  command->callback([&context, flags] {
    context.action = [flags]() -> absl::Status {
      OCTAVO_ASSIGN_OR_RETURN(const ImportSummary summary, ImportGguf(flags->file, flags->out));
      fmt::print("{}: {}, {} tensors, {} read, {} written, digest {}\n", flags->out,
                 summary.architecture, summary.tensors, HumanBytes(summary.bytes_read),
                 HumanBytes(summary.bytes_written), summary.digest);
      return absl::OkStatus();
    };
  });
}

}  // namespace octavo
