# A specialist of one CAR range: tools/train.py configs/partition/ttp_vitsam_l.py --partition small|medium|large
_base_ = '../origin/ttp_vitsam_l.py'

train_dataloader = dict(
    dataset=dict(_delete_=True, type='CARPartitionDataset', partition='small', dataset={{_base_.train_dataloader.dataset}})
)
val_dataloader = dict(dataset=dict(_delete_=True, type='CARPartitionDataset', partition='small', dataset={{_base_.val_dataloader.dataset}}))
