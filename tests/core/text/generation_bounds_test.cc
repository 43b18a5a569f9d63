#include "core/text/generation_bounds.h"

#include <cmath>
#include <functional>
#include <limits>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

v1::EngineRequest Fine() {
  v1::EngineRequest request;
  request.set_max_tokens(8);
  return request;
}

using Set = std::function<void(v1::Sampling&, float)>;

TEST(GenerationBounds, EveryNumberHasARangeAndItsNameInTheMessage) {
  struct Field {
    std::string name;
    float least;
    float most;
    Set set;
  };
  const std::vector<Field> fields = {
      {"temperature", 0, 100, [](v1::Sampling& s, float x) { s.set_temperature(x); }},
      {"top_p", 0, 1, [](v1::Sampling& s, float x) { s.set_top_p(x); }},
      {"min_p", 0, 1, [](v1::Sampling& s, float x) { s.set_min_p(x); }},
      {"repetition_penalty", 0.01f, 100,
       [](v1::Sampling& s, float x) { s.set_repetition_penalty(x); }},
      {"presence_penalty", -2, 2, [](v1::Sampling& s, float x) { s.set_presence_penalty(x); }},
      {"frequency_penalty", -2, 2, [](v1::Sampling& s, float x) { s.set_frequency_penalty(x); }},
      {"logit_bias of 7", -100, 100,
       [](v1::Sampling& s, float x) { (*s.mutable_logit_bias())[7] = x; }},
  };
  for (const Field& field : fields) {
    const auto check = [&](float x) {
      v1::EngineRequest request = Fine();
      field.set(*request.mutable_sampling(), x);
      return CheckGeneration(request);
    };
    for (const float x : {field.least, field.most, 0.0f, 0.5f}) {
      EXPECT_TRUE(check(x).ok()) << field.name << " " << x;
    }
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float x : {std::nextafter(field.least, -infinity),
                          std::nextafter(field.most, infinity), NAN, infinity, -infinity}) {
      const absl::Status status = check(x);
      EXPECT_EQ(ReasonOf(status), Reason::kBadRequest) << field.name << " " << x;
      EXPECT_NE(std::string(status.message()).find(field.name), std::string::npos) << status;
    }
  }
  v1::EngineRequest cold = Fine();
  cold.mutable_sampling()->set_temperature(1e-4f);
  EXPECT_EQ(ReasonOf(CheckGeneration(cold)), Reason::kBadRequest);
}

TEST(GenerationBounds, CountsAreBounded) {
  v1::EngineRequest request = Fine();
  request.set_min_tokens(8);
  request.set_logprobs(kTopLogprobsMax);
  for (int i = 0; i < kStopIdsMax; ++i) request.add_stop_ids(i);
  for (int i = 0; i < kLogitBiasMax; ++i) {
    (*request.mutable_sampling()->mutable_logit_bias())[i] = 1;
  }
  ASSERT_TRUE(CheckGeneration(request).ok());
  const std::vector<std::function<void(v1::EngineRequest&)>> beyond = {
      [](v1::EngineRequest& r) { r.set_min_tokens(9); },
      [](v1::EngineRequest& r) { r.set_max_tokens(0); },
      [](v1::EngineRequest& r) { r.set_logprobs(kTopLogprobsMax + 1); },
      [](v1::EngineRequest& r) { r.set_logprobs(UINT32_MAX); },
      [](v1::EngineRequest& r) { r.add_stop_ids(1); },
      [](v1::EngineRequest& r) { (*r.mutable_sampling()->mutable_logit_bias())[-5] = 1; },
  };
  for (const auto& spoil : beyond) {
    v1::EngineRequest spoiled = request;
    spoil(spoiled);
    EXPECT_EQ(ReasonOf(CheckGeneration(spoiled)), Reason::kBadRequest);
  }
}

}  // namespace
}  // namespace octavo
