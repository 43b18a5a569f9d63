#include "core/base/log.h"

#include "core/base/error.h"
#include "fmt/format.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace octavo {

absl::Status InitLogging(std::string_view program, std::string_view level) {
  const auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    return MakeError(Reason::kUsage, fmt::format("unknown log level '{}'", level), {},
                     "Use trace, debug, info, warning, error or off");
  }
  auto logger = std::make_shared<spdlog::logger>(std::string(program),
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(parsed);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %n[%P] %v");
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

}  // namespace octavo
