// What tests/oracle/check_sampling.py drives: rules and draws on logits that it is given.
//
// One JSON object a line on standard input, one answer a line on standard output.
//   {"request": an EngineRequest in protobuf's JSON, "output": ids so far, "logits": a row,
//   "draws": n}
//   {"row": the row that is drawn from, null where no draw comes, "counts": {id: times drawn}}
// Draws are at n positions one after another, all after the same output.

#include <cmath>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"
#include "core/text/generation_bounds.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"
#include "worker/serve/sampler.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Json> Answer(const Json& question) {
  v1::EngineRequest request;
  OCTAVO_CHECK(
      google::protobuf::util::JsonStringToMessage(question["request"].dump(), &request).ok());
  const auto logits = question["logits"].get<std::vector<float>>();
  OCTAVO_RETURN_IF_ERROR(CheckGeneration(request));
  OCTAVO_ASSIGN_OR_RETURN(TokenRules rules, TokenRules::Create(request, std::ssize(logits)));
  const auto output = question["output"].get<std::vector<int32_t>>();
  for (const int32_t id : output) rules.Append(id);
  Json answer = {{"row", Json::array()}, {"counts", Json::object()}};
  std::vector<float> buffer;
  for (const float x : rules.Apply(logits, buffer)) {
    answer["row"].push_back(std::isfinite(x) ? Json(x) : Json());
  }
  Sampler sampler;
  std::map<int32_t, int> counts;
  for (uint64_t position = 0; position < question["draws"].get<uint64_t>(); ++position) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::EngineToken token, sampler.Sample(logits, rules, position));
    ++counts[token.id()];
  }
  for (const auto& [id, count] : counts) answer["counts"][std::to_string(id)] = count;
  return answer;
}

}  // namespace
}  // namespace octavo

int main() {
  const octavo::FpEnv environment;
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto answer = octavo::Answer(octavo::Json::parse(line));
    if (!answer.ok()) {
      std::cerr << answer.status() << "\n";
      return 1;
    }
    std::cout << answer->dump() << std::endl;
  }
  return 0;
}
