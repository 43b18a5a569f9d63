#include "cli/load_figures.h"

#include <algorithm>
#include <utility>

#include "cli/statistics.h"
#include "fmt/format.h"

namespace octavo {
namespace {

Latencies LatenciesOf(const std::vector<double>& values) {
  if (values.empty()) return {};
  return {.mean = MeanOf(values).mean,
          .p50 = Quantile(values, 0.50),
          .p90 = Quantile(values, 0.90),
          .p99 = Quantile(values, 0.99),
          .max = *std::max_element(values.begin(), values.end())};
}

double PerToken(const RequestRecord& record) {
  return record.output_tokens < 2 ? 0 : (record.done - record.first) / (record.output_tokens - 1);
}

bool Meets(const RequestRecord& record, const LoadGoals& goals) {
  const double first = record.first - record.due;
  return (goals.first_token_seconds <= 0 || first <= goals.first_token_seconds) &&
         (goals.gap_seconds <= 0 || PerToken(record) <= goals.gap_seconds);
}

using Row = std::pair<const char*, const Latencies*>;

std::vector<Row> RowsOf(const LoadFigures& figures) {
  return {{"time to first token", &figures.first_token},
          {"inter-token", &figures.gap},
          {"time per token", &figures.per_token},
          {"whole request", &figures.whole}};
}

}  // namespace

LoadFigures FiguresOf(std::span<const RequestRecord> records, const LoadGoals& goals) {
  LoadFigures figures;
  std::vector<double> first, gaps, per_token, whole;
  for (const RequestRecord& record : records) {
    figures.seconds = std::max(figures.seconds, record.done);
    if (!record.failure.empty()) {
      ++figures.failed[record.failure];
      continue;
    }
    ++figures.answered;
    figures.input_tokens += record.input_tokens;
    figures.output_tokens += record.output_tokens;
    first.push_back(record.first - record.due);
    whole.push_back(record.done - record.due);
    if (record.output_tokens > 1) per_token.push_back(PerToken(record));
    gaps.insert(gaps.end(), record.gaps.begin(), record.gaps.end());
    figures.good += Meets(record, goals) ? 1 : 0;
  }
  figures.first_token = LatenciesOf(first);
  figures.gap = LatenciesOf(gaps);
  figures.per_token = LatenciesOf(per_token);
  figures.whole = LatenciesOf(whole);
  return figures;
}

std::string TextOf(const LoadFigures& figures) {
  std::string text = fmt::format("{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "milliseconds", "mean",
                                 "p50", "p90", "p99", "max");
  for (const auto& [name, row] : RowsOf(figures)) {
    text +=
        fmt::format("{:<22} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}\n", name, row->mean * 1e3,
                    row->p50 * 1e3, row->p90 * 1e3, row->p99 * 1e3, row->max * 1e3);
  }
  text += fmt::format(
      "{} answered in {:.2f} s: {:.2f} requests/s ({:.2f} within the goals), {:.1f} tokens/s out, "
      "{:.1f} in\n",
      figures.answered, figures.seconds, figures.requests_per_second(), figures.goodput(),
      figures.output_tokens_per_second(),
      figures.seconds > 0 ? static_cast<double>(figures.input_tokens) / figures.seconds : 0);
  for (const auto& [reason, count] : figures.failed) {
    text += fmt::format("{} failed: {}\n", count, reason);
  }
  return text;
}

nlohmann::ordered_json JsonOf(const LoadFigures& figures) {
  nlohmann::ordered_json json = {{"answered", figures.answered},
                                 {"failed", figures.failed},
                                 {"seconds", figures.seconds},
                                 {"input_tokens", figures.input_tokens},
                                 {"output_tokens", figures.output_tokens},
                                 {"requests_per_second", figures.requests_per_second()},
                                 {"output_tokens_per_second", figures.output_tokens_per_second()},
                                 {"goodput", figures.goodput()}};
  for (const auto& [name, row] : RowsOf(figures)) {
    std::string key = name;
    std::ranges::replace(key, ' ', '_');
    std::ranges::replace(key, '-', '_');
    json[key + "_seconds"] = {{"mean", row->mean},
                              {"p50", row->p50},
                              {"p90", row->p90},
                              {"p99", row->p99},
                              {"max", row->max}};
  }
  return json;
}

}  // namespace octavo
