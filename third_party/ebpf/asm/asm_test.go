package asm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// What the original made of the same program.
const (
	little = "611200000000000054020000ffff000074030000100000005502040002000000bc3100000000000054010000060000005d31010000000000b4000000010000009500000000000000b700000000000000"
	big    = "6121000000000000542000000000ffff74300000000000105520000400000002bc1300000000000054100000000000065d13000100000000b4000000000000019500000000000000b700000000000000"
)

func TestMarshal(t *testing.T) {
	p := Instructions{
		LoadMem(R2, R1, 0, Word), And.Imm32(R2, 0xffff), RSh.Imm32(R3, 16),
		JNE.Imm(R2, 2, "next"), Mov.Reg32(R1, R3), And.Imm32(R1, 6), JNE.Reg(R1, R3, "next"),
		Mov.Imm32(R0, 1), Return().WithSymbol("next"), Mov.Imm(R0, 0),
	}
	var b bytes.Buffer
	for want, order := range map[string]binary.ByteOrder{little: binary.LittleEndian, big: binary.BigEndian} {
		b.Reset()
		if err := p.Marshal(&b, order); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b.Bytes()); got != want || p.Size() != uint64(b.Len()) {
			t.Errorf("%v: got %s\nnot %s", order, got, want)
		}
	}
	if err := (Instructions{JNE.Imm(R1, 0, "nowhere")}).Marshal(&b, binary.LittleEndian); err == nil {
		t.Error("a jump to nowhere")
	}
}
