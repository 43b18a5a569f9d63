#include "core/text/sentencepiece_model.h"

#include "compat/sentencepiece_model.pb.h"
#include "core/base/error.h"
#include "core/text/detokenizer.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;
using Model = compat::SentencePieceModel;
using Piece = Model::Piece;

constexpr EncodeOptions kAsSentencePiece{.add_special_tokens = false, .parse_special = false};

int32_t Add(Model* model, const std::string& text, float score, Piece::Type type) {
  Piece& piece = *model->add_pieces();
  piece.set_piece(text);
  piece.set_score(score);
  if (type != Piece::NORMAL) piece.set_type(type);
  return model->pieces_size() - 1;
}

// <unk> 0, <s> 1, </s> 2, (bytes,) then words from the best on, then characters.
Model SmallModel(bool bytes = false) {
  Model model;
  model.mutable_trainer_spec()->set_model_type(Model::BPE);
  Add(&model, "<unk>", 0, Piece::UNKNOWN);
  Add(&model, "<s>", 0, Piece::CONTROL);
  Add(&model, "</s>", 0, Piece::CONTROL);
  if (bytes) {
    model.mutable_trainer_spec()->set_byte_fallback(true);
    for (int b = 0; b < 256; ++b) Add(&model, TokenOfByte(static_cast<uint8_t>(b)), 0, Piece::BYTE);
  }
  float score = 0;
  for (const char* word : {"▁H", "el", "▁Hel", "lo", "▁▁", "ello"}) {
    Add(&model, word, score--, Piece::NORMAL);
  }
  for (const char* character : {"▁", "H", "e", "l", "o", "é"}) {
    Add(&model, character, -50, Piece::NORMAL);
  }
  return model;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const Model& model, const char* config = "") {
  return LoadSentencePieceTokenizer(model.SerializeAsString(), config);
}

Ids Encoded(const Model& model, std::string_view text) {
  const auto tokenizer = Load(model);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *(*tokenizer)->Encode(text, kAsSentencePiece);
}

void ExpectRefused(const absl::Status& status, Reason reason, const std::string& what) {
  ASSERT_FALSE(status.ok()) << what;
  EXPECT_EQ(ReasonOf(status), reason) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(what));
}

class TrainedTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TrainedTest, IdsAndTextsAreThoseOfSentencePiece) {
  const auto tokenizer = LoadSentencePieceTokenizer(ReadGolden(std::string(GetParam()) + ".model"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const auto& c : ReadGoldenLines(std::string(GetParam()) + ".cases.jsonl")) {
    SCOPED_TRACE(c["text"].dump());
    const Ids ids = c["ids"].get<Ids>();
    EXPECT_EQ(*(*tokenizer)->Encode(c["text"].get<std::string>(), kAsSentencePiece), ids);
    EXPECT_EQ((*tokenizer)->Decode(ids, true), c["decoded"].get<std::string>());
    Detokenizer detokenizer(tokenizer->get(), true);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.Push(id);
      ASSERT_TRUE(IsUtf8(piece));
      joined += piece;
    }
    EXPECT_EQ(joined + detokenizer.Finish(), c["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TrainedTest, ::testing::Values("spm_llama", "spm_user"));

// The ids of the tests below are those of SentencePiece 0.2.3 for the same models.
constexpr std::string_view kText = "HAllo  Hello <left>";

TEST(SentencePieceModelTest, UnknownCharactersAreJoinedOrBecomeBytes) {
  EXPECT_THAT(Encoded(SmallModel(), kText), ElementsAre(3, 0, 12, 6, 5, 6, 9, 0, 12, 11, 0));
  Model bytes = SmallModel(true);
  bytes.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  EXPECT_THAT(Encoded(bytes, kText),
              ElementsAre(259, 68, 268, 262, 265, 261, 262, 265, 63, 268, 267, 105, 119, 65));
}

TEST(SentencePieceModelTest, SpacesAreTakenTogetherOrKept) {
  Model model = SmallModel();
  EXPECT_THAT(Encoded(model, "  HAllo  "), ElementsAre(3, 0, 12, 6));
  EXPECT_TRUE(Encoded(model, "  ").empty());
  model.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  EXPECT_THAT(Encoded(model, kText), ElementsAre(3, 0, 12, 6, 9, 5, 6, 9, 0, 12, 11, 0));
}

TEST(SentencePieceModelTest, PiecesOfTheUserComeFirst) {
  Model model = SmallModel();
  Add(&model, "<left>", 0, Piece::USER_DEFINED);
  Add(&model, "▁▁▁", 0, Piece::USER_DEFINED);
  EXPECT_THAT(Encoded(model, kText), ElementsAre(3, 0, 12, 6, 5, 6, 9, 15));
}

TEST(SentencePieceModelTest, TheCharsmapReplacesTheLongestString) {
  // A double array by hand: "A" becomes "a". The root's children lie from 256 on.
  std::vector<uint32_t> units(512, 0);
  units[0] = 256 << 10;
  constexpr uint32_t kNode = 256 ^ 'A';
  units[kNode] = 'A' | 1 << 8 | (kNode ^ 300) << 10;
  units[300] = 0x80000000;
  std::string blob(4 + 4 * units.size(), '\0');
  blob[1] = 8;  // 2048 bytes
  std::memcpy(blob.data() + 4, units.data(), 4 * units.size());
  blob += std::string("a\0", 2);
  Model model = SmallModel();
  Add(&model, "a", -50, Piece::NORMAL);
  model.mutable_normalizer_spec()->set_precompiled_charsmap(blob);
  EXPECT_THAT(Encoded(model, kText), ElementsAre(3, 15, 12, 6, 5, 6, 9, 0, 12, 11, 0));
  // Out of bounds, no string matches any more.
  units[kNode] = 'A' | 1 << 8 | 1u << 30;
  std::memcpy(blob.data() + 4, units.data(), 4 * units.size());
  model.mutable_normalizer_spec()->set_precompiled_charsmap(blob);
  EXPECT_THAT(Encoded(model, "HA"), ElementsAre(3, 0));
  model.mutable_normalizer_spec()->set_precompiled_charsmap(blob.substr(0, 1000));
  ExpectRefused(Load(model).status(), Reason::kBadCheckpoint, "precompiled_charsmap of 1000 bytes");
}

TEST(SentencePieceModelTest, ControlPiecesAreSpecialAndTextBetweenThemIsATextOfItsOwn) {
  const auto tokenizer = *Load(SmallModel());
  EXPECT_THAT(*tokenizer->Encode("Hello</s>Hello", {}), ElementsAre(1, 5, 6, 2, 5, 6));
  EXPECT_THAT(*tokenizer->Encode("Hello", kAsSentencePiece), ElementsAre(5, 6));
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_EQ(tokenizer->Decode(Ids{1, 5, 6, 2, 5, 6}, true), "Hello Hello");
  EXPECT_EQ(tokenizer->Decode(Ids{1, 5, 6}, false), "<s> Hello");
}

TEST(SentencePieceModelTest, TheConfigSaysWhatIsAdded) {
  const auto ids = [](const char* config) {
    return *(*Load(SmallModel(), config))->Encode("H", {});
  };
  EXPECT_THAT(ids("{}"), ElementsAre(1, 3));
  EXPECT_THAT(ids(R"({"add_bos_token": false, "legacy": true})"), ElementsAre(3));
  EXPECT_THAT(ids(R"({"add_eos_token": true})"), ElementsAre(1, 3, 2));
  Model model = SmallModel();
  model.mutable_trainer_spec()->set_bos_id(-1);
  EXPECT_THAT(*(*Load(model))->Encode("H", {}), ElementsAre(3));
  ExpectRefused(Load(model, R"({"add_bos_token": true})").status(), Reason::kBadCheckpoint,
                "bos_id is -1");
  ExpectRefused(Load(SmallModel(), R"({"legacy": false})").status(), Reason::kUnsupported,
                "\"legacy\": false");
}

TEST(SentencePieceModelTest, OtherModelsAreRefusedByName) {
  const auto refuse = [](auto change, const char* what) {
    Model model = SmallModel();
    change(&model);
    ExpectRefused(Load(model).status(), Reason::kUnsupported, what);
  };
  refuse([](Model* m) { m->mutable_trainer_spec()->set_model_type(Model::UNIGRAM); }, "UNIGRAM");
  refuse([](Model* m) { m->mutable_trainer_spec()->set_model_type(Model::WORD); }, "WORD");
  refuse([](Model* m) { m->mutable_trainer_spec()->set_treat_whitespace_as_suffix(true); },
         "treat_whitespace_as_suffix");
  refuse([](Model* m) { m->mutable_normalizer_spec()->set_escape_whitespaces(false); },
         "escape_whitespaces");
  refuse([](Model* m) { m->mutable_denormalizer_spec()->set_precompiled_charsmap("x"); },
         "a denormalizer");
  refuse([](Model* m) { Add(m, "Hel", 0, Piece::UNUSED); }, "the unused piece 15");
  refuse([](Model* m) { Add(m, "Hq", 0, Piece::NORMAL); }, "the piece \"Hq\" with a character");
}

TEST(SentencePieceModelTest, MalformedModelsAreErrors) {
  const auto refuse = [](auto change, const char* what) {
    Model model = SmallModel();
    change(&model);
    ExpectRefused(Load(model).status(), Reason::kBadCheckpoint, what);
  };
  refuse([](Model* m) { m->clear_pieces(); }, "no pieces");
  refuse([](Model* m) { Add(m, "el", 0, Piece::NORMAL); }, "\"el\" is there twice");
  refuse([](Model* m) { Add(m, "", 0, Piece::NORMAL); }, "piece 15 is not 1 to 256 bytes");
  refuse([](Model* m) { Add(m, "\xff", 0, Piece::NORMAL); }, "piece 15 is not 1 to 256 bytes");
  refuse([](Model* m) { Add(m, "q", NAN, Piece::NORMAL); }, "the score of piece 15");
  refuse([](Model* m) { Add(m, "u", 0, Piece::UNKNOWN); }, "two pieces are of type unknown");
  refuse([](Model* m) { m->mutable_pieces(0)->set_type(Piece::CONTROL); }, "no piece is of type");
  refuse([](Model* m) { Add(m, "<0x0A>", 0, Piece::BYTE); }, "1 pieces are bytes");
  refuse([](Model* m) { Add(m, "<0x0a>", 0, Piece::BYTE); }, "names none");
  refuse([](Model* m) { m->mutable_trainer_spec()->set_byte_fallback(true); },
         "0 pieces are bytes");
  refuse([](Model* m) { m->mutable_trainer_spec()->set_bos_id(3); }, "bos_id is 3");
  const std::string good = SmallModel().SerializeAsString();
  ExpectRefused(LoadSentencePieceTokenizer(good.substr(0, good.size() - 1)).status(),
                Reason::kBadCheckpoint, "not a SentencePiece model: file tokenizer.model");
  ExpectRefused(LoadSentencePieceTokenizer("").status(), Reason::kBadCheckpoint, "no pieces");
  std::string many;
  for (size_t i = 0; i <= kVocabularyMax; ++i) many += std::string("\x0a\0", 2);
  ExpectRefused(LoadSentencePieceTokenizer(many).status(), Reason::kBadCheckpoint,
                "more than 1048576 pieces");
}

}  // namespace
}  // namespace octavo
