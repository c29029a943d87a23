# A specialist of one CAR range: tools/train.py configs/partition/changestar_farseg_r18.py --partition small|medium|large
_base_ = '../origin/changestar_farseg_r18.py'

train_dataloader = dict(
    dataset=dict(_delete_=True, type='CARPartitionDataset', partition='small', dataset={{_base_.train_dataloader.dataset}})
)
val_dataloader = dict(dataset=dict(_delete_=True, type='CARPartitionDataset', partition='small', dataset={{_base_.val_dataloader.dataset}}))
