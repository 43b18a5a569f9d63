#include "worker/serve/token_log.h"

#include <random>
#include <set>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

v1::EngineRequest Request(const std::string& id, const std::string& note, uint32_t choice = 0,
                          const std::string& told = "") {
  v1::EngineRequest request;
  request.set_request_id(id);
  request.set_note(note);
  request.set_choice(choice);
  request.set_told(told);
  return request;
}

v1::EngineEvent Event(const std::vector<int32_t>& ids,
                      v1::FinishReason finish = v1::FINISH_UNSPECIFIED) {
  v1::EngineEvent event;
  for (const int32_t id : ids) {
    event.add_tokens()->set_id(id);
    event.mutable_tokens()->rbegin()->set_logprob(-0.25f * static_cast<float>(id));
  }
  event.set_finish(finish);
  if (finish == v1::FINISH_STOP) event.set_stop_id(ids.back());
  return event;
}

v1::EngineEvent Told(TokenLog& log, const std::string& id, uint32_t choice = 0) {
  v1::EngineEvent told;
  const auto logged = log.Get(id);
  EXPECT_TRUE(logged.ok()) << logged.status();
  for (const v1::LoggedAnswer& answer : logged->answers()) {
    if (answer.choice() == choice && !told.ParseFromString(answer.told())) ADD_FAILURE();
  }
  return told;
}

TEST(TokenLog, GivesBackWhatWasTold) {
  TokenLog log({});
  EXPECT_EQ(ReasonOf(log.Get("r").status()), Reason::kNotFound);
  const auto first = log.Begin(Request("r", "note"));
  const auto second = log.Begin(Request("r", "note", 3, Event({7}).SerializeAsString()));
  log.Append(first, Event({1, 2}));
  v1::EngineEvent with_prompt = Event({3});
  with_prompt.add_prompt()->set_id(9);
  with_prompt.set_cached_tokens(5);
  log.Append(first, with_prompt);
  log.Append(second, Event({8}, v1::FINISH_STOP));
  EXPECT_EQ(log.Get("r")->note(), "note");
  EXPECT_EQ(Told(log, "r").SerializeAsString(), Event({1, 2, 3}).SerializeAsString());
  EXPECT_EQ(Told(log, "r", 3).SerializeAsString(),
            Event({7, 8}, v1::FINISH_STOP).SerializeAsString());
}

TEST(TokenLog, ADeadlineIsNoEnd) {
  TokenLog log({});
  const auto ticket = log.Begin(Request("r", "note"));
  log.Append(ticket, Event({1}));
  log.Append(ticket, Event({}, v1::FINISH_DEADLINE));
  log.Append(ticket, Event({}, v1::FINISH_CANCELLED));
  EXPECT_EQ(Told(log, "r").finish(), v1::FINISH_UNSPECIFIED);
}

TEST(TokenLog, TheLaterWriterTakesTheAnswerOver) {
  TokenLog log({});
  const auto old = log.Begin(Request("r", "note"));
  const auto other = log.Begin(Request("r", "note", 1));
  log.Append(old, Event({1, 2, 3}));
  const auto later = log.Begin(Request("r", "note", 0, Event({1, 2}).SerializeAsString()));
  EXPECT_FALSE(log.Holds(old));
  EXPECT_TRUE(log.Holds(later));
  EXPECT_TRUE(log.Holds(other));
  log.Append(old, Event({99}));
  log.Append(later, Event({3, 4}));
  EXPECT_EQ(Told(log, "r").SerializeAsString(), Event({1, 2, 3, 4}).SerializeAsString());
  // Another request with the same id: the streams of the earlier one go on without a log.
  const auto replacing = log.Begin(Request("r", "other"));
  log.Append(later, Event({5}));
  EXPECT_TRUE(log.Holds(later));
  EXPECT_TRUE(log.Holds(replacing));
  EXPECT_EQ(log.Get("r")->answers_size(), 1);
  EXPECT_EQ(Told(log, "r").tokens_size(), 0);
}

TEST(TokenLog, ARequestThatIsTooLargeIsNotKept) {
  TokenLog log({.requests = 10, .bytes = 1 << 20, .request_bytes = 2000});
  const auto small = log.Begin(Request("small", "note"));
  const auto large = log.Begin(Request("large", "note"));
  for (int i = 0; i < 1000; ++i) log.Append(large, Event({i}));
  EXPECT_EQ(ReasonOf(log.Get("large").status()), Reason::kNotFound);
  EXPECT_TRUE(log.Holds(large));
  log.Append(small, Event({1}));
  EXPECT_EQ(log.requests(), 1u);
  log.Begin(Request("huge", std::string(3000, 'x')));
  EXPECT_EQ(ReasonOf(log.Get("huge").status()), Reason::kNotFound);
  EXPECT_EQ(Told(log, "small").tokens_size(), 1);
}

// Beside a plain model of it: what was touched least recently is what is missing.
TEST(TokenLog, StaysWithinItsBoundsAndForgetsTheOldest) {
  const TokenLog::Limits limits{.requests = 20, .bytes = 20'000, .request_bytes = 8'000};
  TokenLog log(limits);
  std::mt19937 draw(3);
  std::map<std::string, TokenLog::Ticket> tickets;
  std::map<std::string, std::vector<int32_t>> told;
  std::vector<std::string> order;  // the last touched last
  const auto touch = [&](const std::string& id) {
    std::erase(order, id);
    order.push_back(id);
  };
  for (int step = 0; step < 5'000; ++step) {
    const std::string id = "r" + std::to_string(draw() % 40);
    const auto kind = draw() % 10;
    if (!tickets.contains(id) || !log.Get(id).ok() || kind == 0) {
      tickets[id] = log.Begin(Request(id, std::to_string(step)));
      told[id].clear();
    } else if (kind < 8) {
      const auto token = static_cast<int32_t>(draw() % 1000);
      log.Append(tickets[id], Event({token}));
      told[id].push_back(token);
    }
    touch(id);
    ASSERT_LE(log.requests(), limits.requests);
    ASSERT_LE(log.bytes(), limits.bytes);
    if (step % 50 != 49) continue;
    const size_t kept = log.requests();
    ASSERT_GT(kept, 1u);
    std::vector<std::string> after;
    for (size_t i = 0; i < order.size(); ++i) {
      const bool there = log.Get(order[i]).ok();  // from old to new, so that the order stays
      ASSERT_EQ(there, i + kept >= order.size()) << order[i] << " of " << order.size();
      if (!there) continue;
      after.push_back(order[i]);
      const v1::EngineEvent event = Told(log, order[i]);
      ASSERT_EQ(static_cast<size_t>(event.tokens_size()), told[order[i]].size());
      for (size_t t = 0; t < told[order[i]].size(); ++t) {
        ASSERT_EQ(event.tokens(static_cast<int>(t)).id(), told[order[i]][t]);
      }
    }
    order = after;
  }
}

}  // namespace
}  // namespace octavo
