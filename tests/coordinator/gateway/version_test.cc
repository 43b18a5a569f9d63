// Requests that come while another version takes the model's place.

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace octavo {
namespace {

class VersionTest : public GatewayTest {
 protected:
  uint64_t EpochAsked() {
    MutexLock lock(leader_.mutex);
    return leader_.last.group_epoch();
  }
};

TEST_F(VersionTest, ARefusedRequestIsAnsweredByTheGroupThatTookThePlace) {
  leader_.refusing = 1;
  Answer answer;
  std::jthread client([&] { answer = Generate(Prompt("Count with me")); });
  ASSERT_TRUE(Eventually([&] { return EpochAsked() == 1; }));
  v1::ModelInfo old = *models_.Find("m");
  old.set_state("draining");
  models_.SetBeside({old});
  Put("ready", 2, "/another/version");
  client.join();
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "one two three four five");
  EXPECT_EQ(EpochAsked(), 2u);
  EXPECT_EQ(metrics_.ValueOf(metric::kStreamsResumed), 0);
  EXPECT_EQ(metrics_.ValueOf(metric::kPromptTokens), std::ssize(Ids("Count with me")) + 1);
}

TEST_F(VersionTest, WhatIsRefusedForLongIsNotReady) {
  leader_.refusing = 1;
  const auto start = Steady::now();
  EXPECT_EQ(ReasonOf(Generate(Prompt("x")).status), Reason::kNotReady);
  EXPECT_GE(Steady::now() - start, milliseconds(2000));
  EXPECT_LT(Steady::now() - start, milliseconds(4000));
}

TEST_F(VersionTest, WhoWasToldNothingMayBeAnsweredByAnotherVersion) {
  leader_.silent = 1;
  Answer answer;
  std::jthread client([&] { answer = Generate(Prompt("Count with me")); });
  ASSERT_TRUE(Eventually([&] { return leader_.running == 1; }));
  Put("ready", 2, "/another/version");  // and the old group is gone
  client.join();
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "one two three four five");
  EXPECT_EQ(EpochAsked(), 2u);
}

}  // namespace
}  // namespace octavo
